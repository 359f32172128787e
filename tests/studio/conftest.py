"""A studio that runs in this process, one for each module of tests."""

import threading
import time

import pytest

from gvit.studio.bench import Benches
from gvit.studio.server import ADDRESS, listen, make_server


@pytest.fixture(scope="module")
def benches():
    return Benches("digits")


@pytest.fixture(scope="module")
def url(benches):
    """Where a server answers, as ``gvit studio`` makes it."""
    with listen(0) as bound:
        server = make_server(benches, bound)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://{ADDRESS}:{bound.getsockname()[1]}"
        server.should_exit = True
        thread.join()
