"""The server as a process sees it: its socket, bodies of any length, and the command line."""

import re
import signal
import socket
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import httpx
import pytest

import gvit
from gvit.cli import main
from gvit.errors import InputError
from gvit.models.weights import save_model
from gvit.studio.guard import MAX_BODY
from gvit.studio.server import listen

MESSAGE = {"content-type": "application/octet-stream"}


def test_only_this_machine_can_reach_it():
    with listen(0) as bound:
        assert bound.getsockname()[0] == "127.0.0.1"
        with pytest.raises(InputError, match=rf"port={bound.getsockname()[1]}: in use"):
            listen(bound.getsockname()[1])


def test_a_body_without_a_length_is_limited_too(url):
    sent = 0

    def endless():
        nonlocal sent
        while sent < 4 * MAX_BODY:
            sent += 2**20
            yield bytes(2**20)

    try:
        answer = httpx.post(f"{url}/api/open", content=endless(), headers=MESSAGE)
        assert answer.status_code == 413
        assert "MB" in answer.json()["error"]
    except (httpx.WriteError, httpx.ReadError):  # the connection ends before all is sent
        pass
    assert sent < 2 * MAX_BODY
    assert httpx.get(f"{url}/api/models").status_code == 200


def test_the_running_server_refuses_what_it_should(url):
    assert httpx.get(url, headers={"host": "evil.example"}).status_code == 403
    assert (
        httpx.post(f"{url}/api/state", headers=MESSAGE | {"origin": "http://evil.example"}).status_code == 403
    )
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port)) as client:
        client.sendall(b"what is this?\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400")


def test_what_has_no_gaussians_to_edit_is_refused(tmp_path, capsys):
    file = tmp_path / "patches.safetensors"
    save_model(gvit.create_model("vit_tiny_patch8", num_classes=2), file)
    assert main(["studio", str(file), "--no-browser"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "reads images and has no encoder" in line


def test_a_port_that_is_taken_is_told(capsys):
    with listen(0) as bound:
        port = bound.getsockname()[1]
        assert main(["studio", "--no-browser", "--port", str(port)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--port {port}: in use; --port 0 takes any that is free" in line
    assert main(["studio", "--no-browser", "--port", "70000"]) == 2


_COMPUTES_FOR_A_MINUTE = """
import time
from gvit.cli import main
from gvit.studio.bench import Bench

def describe(bench):
    print("begun", flush=True)
    time.sleep(60)

Bench.describe = describe
main(["studio", "--no-browser"])
"""


def test_ctrl_c_waits_for_nothing_that_is_being_computed():
    with subprocess.Popen(
        [sys.executable, "-c", _COMPUTES_FOR_A_MINUTE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as studio:
        try:
            url = re.search(r"http://\S+", studio.stdout.readline())[0]

            def ask():
                with pytest.raises(httpx.HTTPError):
                    httpx.get(f"{url}/api/model?name=gvit_tiny.digits", timeout=60).raise_for_status()

            asking = threading.Thread(target=ask)
            asking.start()
            assert studio.stdout.readline() == "begun\n"
            studio.send_signal(signal.SIGINT)
            assert studio.wait(timeout=30) == 0
            asking.join()
        finally:
            studio.kill()
