"""Ctrl-C while a model is trained: the first one ends the current step in peace."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

# of a closed terminal, too, where there is such a signal
_STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass
class StopRequest:
    """Tells, when called, whether a signal to stop came.

    Attributes:
        number: the signal's; None before one came.
    """

    number: int | None = None

    def __call__(self) -> bool:
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """As a shell tells it: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP; 130 where another process was asked."""
        return 128 + (self.number or signal.SIGINT)

    def hear(self, number: int) -> None:
        """A signal came."""
        self.number = self.number or number
        if number == getattr(signal, "SIGHUP", None):
            # a shell in between passes it on once more, in the same millisecond: nobody's impatience
            signal.signal(number, signal.SIG_IGN)
            _leave_terminal()


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Whether SIGINT, SIGTERM or SIGHUP came; a second SIGINT or SIGTERM acts as usual, at once.

    What this process was told to ignore, as by ``nohup``, it ignores. Signals reach the main thread alone: in another
    one, the answer is always no.
    """
    request, usual = StopRequest(), _heard()

    def ask(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, usual[number])
        request.hear(number)

    with _answering(usual, ask):
        yield request


@contextmanager
def interruptions() -> Iterator[StopRequest]:
    """SIGTERM and SIGHUP are a ``KeyboardInterrupt``, as SIGINT is; tells which one was the first.

    For what takes no questions whether to stop. What is ignored, and by whom, is as in ``stop_requests``.
    """
    request = StopRequest()

    def interrupt(number: int, _frame: FrameType | None) -> None:
        request.hear(number)
        raise KeyboardInterrupt

    with _answering(_heard(), interrupt):
        yield request


def _heard() -> dict[int, Any]:
    """What answers the signals to stop that reach this thread and are not ignored."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    usual = {number: signal.getsignal(number) for number in _STOPPING}
    return {number: handler for number, handler in usual.items() if handler not in (signal.SIG_IGN, None)}


@contextmanager
def _answering(usual: Mapping[int, Any], answer: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    try:
        for number in usual:
            signal.signal(number, answer)
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def _leave_terminal() -> None:
    """What is still printed to a terminal that is gone would be an error."""
    for output in (1, 2):
        try:
            os.write(output, b"")
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)
