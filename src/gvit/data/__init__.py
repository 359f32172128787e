"""What comes in: image files, data sets by name, and how both become tensors."""
