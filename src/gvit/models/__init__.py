"""Networks: the encoder (pixels to Gaussians), the classifier (Gaussians to logits), and the two together."""
