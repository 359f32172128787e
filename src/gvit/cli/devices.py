"""Where to compute."""

from gvit.errors import InputError


def find_device(name: str) -> str:
    """A device by name; ``auto`` is ``cuda`` where there is one, else ``cpu``.

    Raises:
        InputError: no such device here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name).tolist()  # which the device meta can't, either
    except (RuntimeError, AssertionError):
        raise InputError(f"--device {name}: not available here; use cpu or auto") from None
    return name
