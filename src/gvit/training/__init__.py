"""Training: schedule (phases), objective (losses, the cut at the Gaussians, guidance), loop (time)."""
