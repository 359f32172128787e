"""Ctrl-C while a model is trained: the first one ends the current step in peace."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

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


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Whether SIGINT, SIGTERM or SIGHUP came; a second one of the same kind acts as usual, at once.

    What this process was told to ignore, as by ``nohup``, it ignores. Signals reach the main thread alone: in another
    one, the answer is always no.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        request.number = request.number or number
        signal.signal(number, previous[number])

    heard = [number for number in _STOPPING if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    previous = {number: signal.signal(number, ask) for number in heard}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
