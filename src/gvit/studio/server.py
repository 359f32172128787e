"""The studio as a process: one socket on this machine's own address, and a server on it."""

from __future__ import annotations

import errno
import socket

import uvicorn

from gvit.errors import InputError, option
from gvit.studio.app import create_app
from gvit.studio.bench import Benches

ADDRESS = "127.0.0.1"


def listen(port: int) -> socket.socket:
    """A socket on 127.0.0.1; nobody on another machine can reach it.

    Args:
        port: 0 for any that is free.

    Raises:
        InputError: the port is taken, reserved, or none.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"{option('port')} must be from 0 (any that is free) to 65535, got {port}")
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((ADDRESS, port))
        bound.listen(64)
    except OSError as error:
        bound.close()
        reason = "in use" if error.errno == errno.EADDRINUSE else (error.strerror or str(error)).lower()
        raise InputError(
            f"{option('port', port)}: {reason}; {option('port', 0)} takes any that is free"
        ) from None
    return bound


def make_server(benches: Benches, bound: socket.socket) -> uvicorn.Server:
    """A server of the studio, for ``run(sockets=[bound])``; it ends when the process is interrupted.

    Args:
        benches: the models.
        bound: as ``listen`` gives it.
    """
    app = create_app(benches, bound.getsockname()[1])
    config = uvicorn.Config(app, log_level="warning", access_log=False, ws="none", server_header=False)
    config.timeout_graceful_shutdown = 1  # seconds; what is being computed is not waited for
    return uvicorn.Server(config)
