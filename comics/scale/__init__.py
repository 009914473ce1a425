"""The same predictor on many machines: files from object stores, Parquet out, an engine between.

``scanner`` is the callable class that looks at files; it knows no engine. ``scanner_process`` runs
it in a process of its own, so that a file that kills its decoder kills no worker, and
``shard_worker`` takes a job shard by shard through it. ``listing`` and ``plan`` say what there is
to do, ``storage`` and ``tables`` write it, ``job`` conducts, ``engines`` distribute: one on this
machine, one on Ray Data. ``reader`` reads what came out.

Apart from ``scanner`` and ``clips``, nothing here imports PyTorch: those who conduct and those who
fetch and write need none of it.
"""
