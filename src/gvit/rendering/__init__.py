"""Gaussians to pixels: batched, differentiable, deterministic, with one meaning on every backend."""

from gvit.rendering.api import BACKENDS, rasterize, render

__all__ = ["BACKENDS", "rasterize", "render"]
