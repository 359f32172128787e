"""What tyro rejects, as one line in flags. These fail, too, where a new tyro has changed its private events."""

import io
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro
from PIL import Image

from gvit.cli import main
from gvit.cli.parsing import flags_of, parse
from gvit.cli.train import NewRun, Output, Resume
from gvit.errors import InputError, option
from gvit.recipes import digits


@dataclass(frozen=True)
class Size:
    num_gaussians: int = 64
    batch_size: int = 8
    shrink: float | None = None
    pool: Literal["token", "avg"] | None = None

    def __post_init__(self) -> None:
        if self.batch_size > self.num_gaussians:
            raise InputError(
                f"{option('batch_size', self.batch_size)} is more than {option('num_gaussians')}, "
                f"{self.num_gaussians}"
            )


@dataclass(frozen=True)
class Options:
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    out: Path = Path("out")
    mode: Literal["fast", "exact"] = "fast"
    overwrite: bool = False
    size: Size = field(default_factory=Size)


def error(*args: str, **kwargs) -> str:
    """What is said of arguments, without the hint at the help, which every line ends with."""
    with pytest.raises(InputError) as caught:
        parse(Options, list(args), "gvit test", **kwargs)
    line = caught.value.for_command_line()
    assert "\n" not in line
    assert line.endswith("; see 'gvit test --help'")
    return line.removesuffix("; see 'gvit test --help'")


def test_arguments_become_the_dataclass():
    parsed = parse(Options, ["a.png", "--batch-size", "4", "--shrink=0.5", "--overwrite"], "gvit test")
    assert parsed == Options(Path("a.png"), overwrite=True, size=Size(batch_size=4, shrink=0.5))
    assert parse(Options, ["--no-overwrite"], "gvit test", default=parsed).overwrite is False


def test_an_unknown_option_gets_the_nearest_ones():
    assert error("a.png", "--batch-sise", "4") == "unknown option --batch-sise; nearest: --batch-size"
    assert error("a.png", "--batch_sise=4") == "unknown option --batch_sise; nearest: --batch-size"
    assert error("a.png", "--overwite").startswith("unknown option --overwite; nearest: --overwrite")
    assert error("a.png", "--xyz") == "unknown option --xyz"
    assert error("a.png", "--xyz", "--ouk", "3") == "unknown options --xyz, --ouk; nearest: --out"


def test_an_unknown_option_is_named_rather_than_what_it_swallows():
    assert error("--batch-sise", "4", "a.png") == "unknown option --batch-sise; nearest: --batch-size"


def test_an_unknown_option_may_be_one_of_the_commands_other_form(capsys):
    assert "resume" not in error("a.png", "--resum", "x")
    assert error("a.png", "--resum", "x", also=["--resume"]) == "unknown option --resum; nearest: --resume"
    assert main(["train", "--resum", "x"]) == 2
    assert "nearest: --resume;" in capsys.readouterr().err


def test_superfluous_arguments():
    assert error("a.png", "b.png") == "unexpected argument b.png"
    assert error("a.png", "b.png", "-x") == "unexpected arguments b.png, -x"
    assert error("a.png", "--overwrite", "yes") == "unexpected argument yes"


def test_missing_arguments():
    assert error() == "missing SOURCE"
    assert error("--batch-size", "4") == "missing SOURCE"
    with pytest.raises(InputError, match=r"^missing --resume; see 'gvit train --help'$"):
        parse(Resume, [], "gvit train")


def test_missing_values():
    assert error("a.png", "--batch-size") == "--batch-size needs a value"
    assert error("a.png", "--out", "--overwrite") == "--out needs a value"


def test_values_of_another_type():
    assert error("a.png", "--batch-size", "many") == "--batch-size takes INT, got 'many'"
    assert error("a.png", "--batch_size=1.5") == "--batch-size takes INT, got '1.5'"
    assert error("a.png", "--shrink", "1", "--shrink", "abc") == "--shrink takes {None}|FLOAT, got 'abc'"
    assert error("a.png", "--shrink=") == "--shrink is empty"


def test_choices():
    assert error("a.png", "--mode", "slow") == "--mode must be one of exact, fast, got slow"
    assert error("a.png", "--pool", "cls") == "--pool must be one of None, avg, token, got cls"


def test_what_a_dataclass_refuses_is_said_in_flags():
    assert error("a.png", "--batch-size", "100") == "--batch-size 100 is more than --num-gaussians, 64"


def test_what_the_outermost_dataclass_refuses_is_said_in_flags():
    with pytest.raises(InputError) as caught:
        parse(Size, ["--batch-size", "100"], "gvit test")
    assert caught.value.for_command_line().startswith("--batch-size 100 is more than --num-gaussians, 64;")


def test_what_the_configuration_refuses_is_said_in_flags(capsys):
    """Deeper by a level, of the real one."""
    assert main(["train", "--crop-pct", "2"]) == 2
    assert capsys.readouterr().err == (
        "gvit: error: --crop-pct must be above 0 and at most 1, got 2; see 'gvit train digits --help'\n"
    )


def test_known_flags_are_those_that_the_help_lists(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(NewRun, ["--help"], "gvit train", default=NewRun(Output(), digits()))
    assert stop.value.code == 0
    listed = re.findall(r"^[│ ] (--[a-z][\w-]*)(?:, (--[\w-]+))?", capsys.readouterr().out, re.MULTILINE)
    assert {flag for pair in listed for flag in pair if flag} == set(flags_of(NewRun))


def tyros_own_error(capsys, *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        parse(Options, list(args), "gvit test")
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_a_tyro_without_the_private_module_speaks_for_itself(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tyro._errors", None)
    assert "--batch-sise" in tyros_own_error(capsys, "a.png", "--batch-sise", "4")


@pytest.mark.parametrize("changed", ["renamed", "emptied"])
def test_an_event_that_is_not_known_is_left_to_tyro(monkeypatch, capsys, changed):
    from tyro import _errors

    class Event:
        pass

    if changed == "emptied":
        Event.__name__ = "InvalidChoice"
    fire = _errors._fire
    monkeypatch.setattr(_errors, "_fire", lambda _: fire(Event()))
    assert "slow" in tyros_own_error(capsys, "a.png", "--mode", "slow")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "digits", "--out", ""], "--out is empty; see 'gvit train digits --help'"),
        (["train", "digits", "--out="], "--out is empty; see"),
        (["predict", "digits", ""], "an argument is empty; see"),
        (["train", "--epochs", "10", "digits"], "give the recipe first: gvit train digits ..."),
        (["train", "folder", "."], "a folder of images is given as --data-dir ."),
        (["train", "folder", "gone"], "unexpected argument gone; see"),
        (["train", "folder", "--data-dri", "photos"], "unknown option --data-dri; nearest: --data-dir"),
    ],
)
def test_a_word_that_is_empty_or_out_of_place_is_told_where_it_belongs(capsys, args, message):
    assert main(args) == 2
    assert f"gvit: error: {message}" in capsys.readouterr().err


def test_help_shows_no_empty_default_of_what_is_required(capsys):
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    assert "(default: '')" not in capsys.readouterr().out


def test_names_that_the_output_cannot_hold_are_escaped(tmp_path, monkeypatch):
    """As where the locale is C, or standard output a file of another encoding."""
    for name in ("K\u00e4se", "Brot"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", (40, 40), (number, len(name), 0)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "K\u00e4se" / "\u732b.png").write_text("no image")
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", output)
    assert main(["data", "check", str(tmp_path), "--workers", "1"]) == 1
    output.flush()
    assert rb"K\xe4se/\u732b.png: not an image file" in output.buffer.getvalue()
