"""Pictures of Gaussians and of what a model makes of them."""
