"""Processes that load images: how they begin, what they answer to, and how their death is told."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader

from gvit.errors import InputError, first_line, option

if sys.platform == "linux":
    from multiprocessing.context import ForkContext, ForkProcess
    from multiprocessing.popen_fork import Popen

# how processes begin that load, where there is no fork to be relied on
_ELSEWHERE = "spawn"


class LoadingError(InputError):
    """A process that loads images was killed."""


class Loader(DataLoader[Any]):
    """A ``DataLoader`` whose forked processes leave alone what they inherit, and whose death is told in a line.

    What was thrown away and not yet collected is never collected in them: a GPU's memory, or a graph recorded on it,
    may be freed by the process alone that made it.

    Raises:
        LoadingError: while batches are drawn: a process that loads was killed.
    """

    def __iter__(self) -> Any:
        if not self.num_workers:
            return super().__iter__()
        already = gc.get_freeze_count()
        gc.freeze()
        try:
            with _signals_as_they_were():
                return _watched(super().__iter__())
        finally:
            if not already:
                gc.unfreeze()


@contextmanager
def _signals_as_they_were() -> Iterator[None]:
    """PyTorch would tell of a killed process at once, in the middle of a step: asked for a batch, it does, too."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if before is not None:  # not one that Python didn't set
            signal.signal(signal.SIGCHLD, before)


def _watched(batches: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from batches
    except (RuntimeError, EOFError, ConnectionError) as error:
        # of an error in what it runs, torch says where it was caught
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker (pid"):
            raise
        if str(error).startswith("Caught "):
            raise
        raise LoadingError(
            f"a process that loads images was killed ({first_line(error)}); where memory ran out, fewer "
            f"{option('workers')} need less"
        ) from error


def loading_processes(workers: int) -> dict[str, Any]:
    """Arguments of a ``DataLoader``: processes that load, and leave it to the main one to answer an interruption.

    Forked on Linux, as they are by default unless the main process was itself spawned, or by Python 3.14. Elsewhere
    they are spawned, as they are by default, and are sent what they load.
    """
    if not workers:
        return {}
    return {
        "num_workers": workers,
        "multiprocessing_context": _Forking() if sys.platform == "linux" else _ELSEWHERE,
        "worker_init_fn": _go_on_loading,
    }


def _go_on_loading(worker: int) -> None:
    """A whole group of processes is told to end: the main one ends this one, when it has saved."""
    # a spawned one is ended by SIGTERM
    for name in ("SIGINT", "SIGHUP", *(("SIGTERM",) if sys.platform == "linux" else ())):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)


if sys.platform == "linux":

    class _Killing(Popen):
        """The main process ends it by SIGKILL: SIGTERM, which comes to a whole group, it ignores."""

        def terminate(self) -> None:
            self.kill()

    class _ForkedProcess(ForkProcess):
        @staticmethod
        def _Popen(process_obj: Any) -> Popen:
            return _Killing(process_obj)

    class _Forking(ForkContext):
        Process = _ForkedProcess
