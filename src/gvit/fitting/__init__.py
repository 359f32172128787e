"""One image to Gaussians by optimisation: ``fit``, and one file per way to start."""
