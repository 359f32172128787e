"""Who imports timm finds GViT's models there; nothing is imported for it before."""

from __future__ import annotations

import sys
from typing import Any


def watch() -> None:
    """Enter the named models with an encoder into timm's registry: now, or as soon as somebody imports timm."""
    if "timm" in sys.modules:
        _enter()
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


class _Watch:
    """A finder of modules that waits for timm's import, and lets it through; others may ask for timm before."""

    _asks = False  # the finders after it

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "timm" or self._asks:
            return None
        from importlib.util import find_spec

        self._asks = True
        try:
            spec = find_spec(name)
        finally:
            self._asks = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_enter(module: Any) -> None:
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                    _enter()

            spec.loader.exec_module = execute_and_enter  # type: ignore[method-assign]
        return spec


def _enter() -> None:
    from gvit.models.in_timm import add_named

    add_named()
