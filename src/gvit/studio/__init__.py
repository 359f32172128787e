"""A page in the browser that runs a real model: images become Gaussians, edits move the prediction."""
