"""Real signals to this process."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from gvit.cli.signals import interruptions, stop_requests


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_first_signal_asks_to_stop(number, code):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_requests() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert stop()
        assert stop.exit_code == code
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with stop_requests() as stop:
        assert not stop()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_each_signal_interrupts_what_takes_no_questions(number, code):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with interruptions() as interruption:
        assert interruption.exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert interruption.exit_code == code
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_second_ctrl_c_stops_at_once():
    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_after_sigterm_still_asks():
    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()


def test_a_closed_terminal_told_of_twice_is_no_second_request():
    again = []
    before = signal.signal(signal.SIGHUP, lambda *_: again.append("as usual"))
    try:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.exit_code == 129
        with interruptions():
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGHUP)
            try:
                os.kill(os.getpid(), signal.SIGHUP)
            except KeyboardInterrupt:
                again.append("interrupted")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not again


# on a terminal of its own, which is closed once it is ready; what it says then, nobody reads
CLOSED = """
import os, pty, sys, time
from gvit.cli.signals import stop_requests
child, terminal = pty.fork()
if not child:
    with stop_requests() as stop:
        print("ready", flush=True)
        until = time.monotonic() + 60
        while not stop() and time.monotonic() < until:
            time.sleep(0.01)
        print("saved", file=sys.stderr)
        print("saved", flush=True)
    sys.exit(stop.exit_code)
read = b""
while b"ready" not in read:
    read += os.read(terminal, 100)
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_what_is_said_to_a_closed_terminal_is_no_error():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", CLOSED], capture_output=True, text=True, env=environment)
    assert ended.stdout == "129\n", ended.stderr


def test_a_thread_that_gets_no_signals_is_never_asked():
    answers = []

    def work() -> None:
        with stop_requests() as stop:
            answers.append(stop())

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]
    assert signal.getsignal(signal.SIGINT) is before


def test_what_nohup_has_a_process_ignore_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        for listening in (stop_requests, interruptions):
            with listening() as stop:
                os.kill(os.getpid(), signal.SIGHUP)
                assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("arguments", [["--version"], ["models", "vit_tiny_patch8"]], ids=["light", "heavy"])
def test_where_nobody_reads_on_a_command_ends_quietly(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "gvit", *arguments]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")
