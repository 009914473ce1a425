"""Reading, drawing, forging and augmenting images with faces; loaders that feed the models."""
