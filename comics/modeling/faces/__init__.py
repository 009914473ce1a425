"""Face methods: each a file of its own, all with the contract of ``base``.

``comics.registry.FACE_METHODS`` and ``ENCODERS`` import what they are asked for.
"""
