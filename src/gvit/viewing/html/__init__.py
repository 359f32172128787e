"""A page for the browser: what a model makes of images, in one file that needs nothing else."""

from gvit.viewing.html.page import Fact, Matrix, Method, Page, ShownImage, write_page

__all__ = ["Fact", "Matrix", "Method", "Page", "ShownImage", "write_page"]
