"""The command line: one file per verb, thin."""

from gvit.cli.dispatch import main

__all__ = ["main"]
