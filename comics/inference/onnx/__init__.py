"""The same verdicts from ONNX files, without the training code."""
