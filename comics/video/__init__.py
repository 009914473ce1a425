"""Videos: read, followed face by face, judged, drawn and written, frame by frame.

``stream`` joins the stages: ``source`` and ``reader`` give frames, ``tracking`` and
``track_verdicts`` follow and judge faces, ``writer`` encodes. ``comics.runs.video`` uses it for the
videos of a run.
"""
