"""Tables of small trainings, for tests of several files."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from forked import context
from gvit.recipes import RECIPES, load_recipe
from gvit.reproduction import execute
from gvit.reproduction.study import change


@contextmanager
def small_tables():
    """Small pictures, by processes that have imported everything already."""
    config = change(load_recipe("debug"), model={"img_size": 16})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "debug", lambda: config)
        patch.setattr(execute, "multiprocessing", SimpleNamespace(get_context=lambda _: context()))
        yield
