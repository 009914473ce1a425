"""From images in memory to verdicts, and verdicts drawn on images.

``predictor`` is the entrance (``onnx`` has the one for ONNX Runtime), ``load`` picks the runtime of
a model file. Runs over files are in ``comics.runs``, videos in ``comics.video``, HTML pages in
``comics.pages``.
"""
