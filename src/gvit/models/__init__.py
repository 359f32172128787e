"""Networks: what a transformer reads, the transformer, the encoder (pixels to Gaussians), and them together."""
