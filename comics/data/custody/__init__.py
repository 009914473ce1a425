"""What is evidence of a file: its fingerprint, what it says of its origin, and who signed for it.

``facts`` has a file's SHA-256, size, type and time of change; ``metadata`` what its EXIF and XMP
say (``parts`` finds them in the file, ``exif``, ``xmp`` and ``thumbnail`` read them);
``credentials`` what C2PA says, by a process of its own (``credentials_process``).

A file is a stranger's: whatever it says is bounded in bytes and escaped, and none of it is taken to
be true.
"""
