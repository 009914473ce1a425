"""Videos: read, followed face by face, judged, drawn and written, frame by frame."""
