import resource

import pytest
import torch

from gvit.cli import main
from gvit.cli.messages import print_error
from gvit.errors import InputError, option


def test_errors_are_said_in_flags(capsys):
    print_error(InputError(f"{option('batch_size', 0)} is too small"))
    assert capsys.readouterr().err == "gvit: error: --batch-size 0 is too small\n"


def test_one_line_of_what_a_data_loaders_worker_says(capsys):
    wrapped = (
        "Caught InputError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "worker.py", line 1, in load\n    raise UnidentifiedImageError\n\n'
        "The above exception was the direct cause of the following exception:\n\n"
        "gvit.errors.InputError: a.png: not an image file\n"
    )
    print_error(InputError(wrapped))
    assert capsys.readouterr().err == "gvit: error: a.png: not an image file\n"


class OutOfMemoryError(RuntimeError):
    """What a GPU's is called."""


def allocate_too_much():
    torch.empty(2**60, dtype=torch.uint8)


def raising(error):
    def run(*_):
        raise error

    return run


@pytest.mark.parametrize(
    "fail",
    [
        lambda *_: allocate_too_much(),
        raising(OutOfMemoryError("CUDA out of memory. Tried to allocate 40.00 GiB.\nMore.")),
        raising(torch.OutOfMemoryError("CUDA out of memory.")),
        raising(MemoryError("Unable to allocate 37.3 GiB")),
    ],
)
def test_too_little_memory_is_one_line(fail, capsys, monkeypatch):
    monkeypatch.setattr("gvit.cli.models.run", fail)
    assert main(["models"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("gvit: error: not enough memory (")
    assert printed.count("\n") == 1


@pytest.mark.parametrize("command", ["fit", "encode", "predict digits", "report", "evaluate"])
def test_a_name_that_is_too_long_is_one_line(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*command.split(), 300 * "a"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("gvit: error: aaa")
    assert printed.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_other_errors_of_torch_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("gvit.cli.models.run", raising(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["models"])


def test_a_full_disk_is_one_line(tmp_path, capsys, monkeypatch):
    def write(*_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
        (tmp_path / "events").write_bytes(bytes(2000))

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr("gvit.cli.models.run", write)
    try:
        code = main(["models"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert code == 2
    assert capsys.readouterr().err.endswith("cannot be written (File too large)\n")


@pytest.mark.parametrize("command", [["explain", "digits", "a.png"], ["faithfulness", "digits", "digits"]])
@pytest.mark.parametrize("seed", ["-1", "9" * 30])
def test_a_seed_that_is_none_is_one_line(command, seed, capsys):
    assert main([*command, "--seed", seed]) == 2
    assert capsys.readouterr().err == f"gvit: error: --seed must be from 0 to 2^62, got {seed}\n"
