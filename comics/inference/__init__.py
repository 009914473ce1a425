"""From images and videos to verdicts: predictor, drawing, video, results files and pages."""
