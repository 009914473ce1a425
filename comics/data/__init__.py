"""Reading, drawing, forging and augmenting images with faces; loaders that feed the models."""

import comics.data.catalog  # noqa: F401  (fills the table of data sets)
