"""Using a trained model on pictures and videos: predict, draw, write."""
