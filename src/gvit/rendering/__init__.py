"""Gaussians to pixels: a batched, differentiable, deterministic rasterizer with one meaning on every backend."""

from gvit.rendering.api import BACKENDS, rasterize, render

__all__ = ["BACKENDS", "rasterize", "render"]
