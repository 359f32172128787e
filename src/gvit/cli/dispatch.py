"""From the first argument to the file of its verb. Nothing heavy is imported before it is needed."""

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from gvit import __version__
from gvit.cli.messages import print_error
from gvit.errors import InputError, first_line, is_out_of_memory, unknown_name

# OpenMP threads that wait by spinning take the cores from the renderer's threads, and from everybody else's.
# It is read when torch is loaded, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# each is a module of this package with a function run(args) that returns the exit code
_COMMANDS = (
    *("train", "finetune", "predict", "encode", "render", "evaluate"),
    *("fit", "data", "reproduce", "models"),
    *("explain", "faithfulness", "report", "studio", "export"),
)

# the disk is full, the quota used up, or the file as large as it may be
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# of names that were given, wherever they are used first: too long, links in a circle, not for this user
_NO_WAY = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM)

_HELP = """\
usage: gvit COMMAND [options]

Images as a few hundred 2D Gaussians, and a vision transformer that classifies
from those alone.

commands:
  train         train a model; with no argument, on handwritten digits
  finetune      train a trained model on other images
  predict       classify image files with a trained model
  encode        draw images, or a data set, as Gaussians with a trained encoder
  render        draw files of Gaussians: PNG, SVG, or tables
  evaluate      measure a trained model on its test images
  report        write a page of a model and its images for the browser
  export        write a model as ONNX, or for torch.export, verified
  studio        edit an image's Gaussians in the browser, the prediction follows
  explain       tell what a model's decisions rest on, Gaussian by Gaussian
  faithfulness  measure how far explanations of a model hold
  fit           fit Gaussians to image files; with no argument, to a photograph
  data          check a folder of images before training: gvit data check DIR
  reproduce     regenerate a table or figure of the paper
  models        list the models, with size and cost, and the pretrained ones

options:
  -h, --help     this text; 'gvit COMMAND --help' tells a command's options
  --version      the version

example:
  gvit train
  gvit predict runs/digits photo.png
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for bad input, 130 for an interruption."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names that it cannot hold are escaped
            stream.reconfigure(errors="backslashreplace")
    code = _run(list(sys.argv[1:] if argv is None else argv))
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        # under torchrun PyTorch's threads have been seen to abort while the interpreter is taken down
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(args: list[str]) -> int:
    try:
        if not args or args[0] in ("-h", "--help"):
            print(_HELP, end="", flush=True)
            return 0
        if args[0] == "--version":
            print(f"gvit {__version__}", flush=True)
            return 0
        if args[0] not in _COMMANDS:
            raise unknown_name("command", args[0], _COMMANDS)
        code: int = importlib.import_module(f"gvit.cli.{args[0]}").run(args[1:])
        sys.stdout.flush()  # here, where an error has its answer
        return code
    except InputError as error:
        print_error(error)
        return 2
    except (MemoryError, RuntimeError) as error:
        if _is_lost_peer(error):
            print(f"gvit: process {os.environ['RANK']} ends, because another one did", file=sys.stderr)
            return 1
        if not is_out_of_memory(error):
            raise
        print_error(
            InputError(
                f"not enough memory ({first_line(error)}): fewer Gaussians, smaller images or smaller batches need less"
            )
        )
        return 2
    except BrokenPipeError:  # 'gvit predict ... | head'
        _discard_output()
        return 0
    except OSError as error:
        if error.errno not in _NO_ROOM + _NO_WAY:
            raise
        what = "cannot be written" if error.errno in _NO_ROOM else "cannot be used"
        print_error(InputError(f"{error.filename or 'a file'}: {what} ({error.strerror})"))
        return 2
    except KeyboardInterrupt:
        print("gvit: interrupted", file=sys.stderr)
        return 130


def _discard_output() -> None:
    """What is still to be written would be an error once more when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_lost_peer(error: Exception) -> bool:
    """What gloo and NCCL say where another process of ``torchrun`` has ended, which has said itself why."""
    lost = ("closed by peer", "reset by peer", "remote process exited", "Broken pipe")
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and any(text in str(error) for text in lost)
