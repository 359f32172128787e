"""gvit studio: a page in the browser on which Gaussians are edited."""

import contextlib
import os
import sys
import threading
import webbrowser
from dataclasses import dataclass
from typing import Annotated

import tyro

from gvit.cli.devices import find_device
from gvit.cli.parsing import parse


@dataclass(frozen=True)
class Options:
    """Edit an image's Gaussians in the browser, and see the prediction follow.

    Runs on this machine alone (127.0.0.1), until Ctrl-C. Needs no network.

    Example: gvit studio

    Example: gvit studio runs/digits --port 8000 --no-browser

    Attributes:
        run: run folder, model.safetensors file, or pretrained model that the page begins with.
        port: of the page's address; 0 for any that is free.
        browser: open the page.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = "digits"
    port: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    browser: bool = True
    device: str = "auto"


def run(args: list[str]) -> int:
    """Serve until interrupted."""
    options = parse(Options, args, "gvit studio")

    from gvit.studio.bench import Benches
    from gvit.studio.server import ADDRESS, listen, make_server

    bound = listen(options.port)  # before anything that takes long
    with bound:
        benches = Benches(options.run, find_device(options.device))
        url = f"http://{ADDRESS}:{bound.getsockname()[1]}"
        print(f"gvit studio: {url} (Ctrl-C ends it)", flush=True)
        if options.browser:
            # some browsers hold who opens them; the socket takes their request already
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        others = set(threading.enumerate())
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            make_server(benches, bound).run(sockets=[bound])
    if _still_computing(others):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # the interpreter would wait for them
    return 0


def _still_computing(others: set[threading.Thread]) -> bool:
    """Whether a thread that the server began has work; those without end when it does."""
    begun = [thread for thread in threading.enumerate() if thread not in others and not thread.daemon]
    for thread in begun:
        thread.join(0.5)
    return any(thread.is_alive() for thread in begun)
