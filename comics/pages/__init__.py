"""HTML pages and plots of results, self-contained.

``run_report`` is the page of a run (``comics.runs``), ``evaluation_report`` and
``classification_report`` those of an evaluation (``comics.evaluation``); ``html_pages`` fills
templates, ``svg_plots`` draws.
"""
