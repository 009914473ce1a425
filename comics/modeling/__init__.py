"""Neural networks: backbones, detectors, the COMICS additions, face methods."""
