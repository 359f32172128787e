"""The bar as a terminal gets it, and its absence elsewhere."""

import io
import os
import re

import pytest
from rich.console import Console

from gvit.errors import Note, for_command_line, option
from gvit.progress import ProgressBar, Terminal, clock
from gvit.training.observers import ConsoleObserver, Start, Step
from gvit.training.schedule import StepPlan

ERASED = "\x1b[?25h\r\x1b[1A\x1b[2K"  # what makes the cursor visible and the line disappear


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None, highlight=False)


def last_frame(console: Console) -> str:
    """The line as it was drawn last, without the codes that move the cursor."""
    lines = re.sub(r"\x1b\[[?\d]*[A-Za-z]", "", console.file.getvalue()).replace("\r", "\n").splitlines()
    return next(line for line in reversed(lines) if "%" in line)


def test_a_terminal_sees_label_share_and_text():
    console = terminal()
    with ProgressBar("fitting", 8, console=console) as bar:
        bar.update(2, "[of the] first")
    assert last_frame(console).split()[0] == "fitting"
    assert " 25% [of the] first " in last_frame(console)
    assert console.file.getvalue().endswith(ERASED)


def test_the_label_changes_where_one_is_given():
    console = terminal()
    with ProgressBar("start", 10, done=5, console=console) as bar:
        assert " 50%" in last_frame(console)
        bar.update(6, label="guide")
        bar.update(7)
    assert last_frame(console).startswith("guide ")
    assert " 70%" in last_frame(console)


def test_nothing_without_a_terminal_or_where_quiet(capsys):
    file = Console(file=io.StringIO())
    quiet = terminal()
    for options in ({"console": file}, {"console": quiet, "quiet": True}, {}):
        with ProgressBar("fitting", 2, **options) as bar:
            bar.update(1, "text")
    assert file.file.getvalue() == quiet.file.getvalue() == ""
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599, "59:59"), (3723, "1:02:03")]
)
def test_clock(seconds, shown):
    assert clock(seconds) == shown


def watched(observer: ConsoleObserver) -> Console:
    """The console on which an observer has shown half of a training."""
    observer.console = terminal()
    observer.start(Start(20, 0, steps_per_epoch=10, notes=(Note(f"a note on {option('epochs')}"),)))
    plan = StepPlan("classify", True, True, False, 0.0)
    observer.step(Step(10, 1.0, plan, {}, {"pixel_loss": 0.25}, 100.0))
    return observer.console


def test_a_training_shows_its_phase_and_losses_until_it_ends():
    with ConsoleObserver() as observer:
        console = watched(observer)
    assert last_frame(console).startswith("classify ")
    assert " 50% 10/20 pixel 0.250 100 img/s" in last_frame(console)
    assert console.file.getvalue().endswith(ERASED)


def test_an_observer_without_an_end_draws_no_bar():
    assert watched(ConsoleObserver()).file.getvalue() == "a note on epochs\n"


def test_notes_can_speak_the_command_lines_language():
    assert watched(ConsoleObserver(worded=for_command_line)).file.getvalue() == "a note on --epochs\n"


def test_a_text_that_finds_no_room_is_cut_and_the_rest_stays():
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None, highlight=False)
    with ProgressBar("reconstruct", 8, console=console) as bar:
        bar.update(2, "2/8 pixel 0.250 class 0.125 100 img/s")
    assert " 25% 2/8 pixel" in last_frame(console)
    assert "…" in last_frame(console)
    assert last_frame(console).startswith("reconstruct ")


def test_work_goes_on_where_nobody_reads_any_more(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as file:
        monkeypatch.setattr("sys.stderr", file)
        console = Terminal(file=file, force_terminal=True)
        with ProgressBar("fitting", 8, console=console) as bar:
            for done in range(8):
                bar.update(done)
                console.print("a line")
        assert console.quiet
        print("a warning", file=file, flush=True)
