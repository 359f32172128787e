"""Programs as processes of their own that have everything heavy imported already: seconds sooner than by a new Python.

They are forked from a process that has imported gvit and done nothing else; see ``multiprocessing``'s forkserver.
"""

import multiprocessing
import os
import re
import runpy
import subprocess
import sys
import tempfile
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from unittest import mock

from numba.core.config import reload_config

_ALONE = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def context() -> ForkServerContext:
    """Makes such processes."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(
        [
            *("gvit.cli.train", "gvit.training.train", "gvit.training.observers", "torch.distributed.run"),
            *("sklearn.datasets", "sklearn.model_selection", "matplotlib.backends.backend_agg"),
            *("torchmetrics", "numba"),
        ]
    )
    with mock.patch.dict(os.environ, _ALONE | {"PYTHONPATH": os.pathsep.join(sys.path)}):
        ensure_running()
    return made


class Forked:
    """What ``python PROGRAM`` would be, such as ``-m gvit train``; output goes to files.

    Args:
        program: a file or ``-m`` and a module, and arguments.
        processes: of them, started by ``torchrun``.
        cwd: the folder that it is in.
        new_session: it leads a session of its own, whose processes can be sent a signal at once.
        environment: changes to the environment.

    Attributes:
        pid: the process's.
    """

    def __init__(
        self,
        *program: object,
        processes: int = 1,
        cwd: Path | None = None,
        new_session: bool = False,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._outputs = tempfile.TemporaryDirectory()
        self._files = [Path(self._outputs.name, name) for name in ("stdout", "stderr")]
        changed = os.environ | _ALONE | {"PYTHONPATH": os.pathsep.join(sys.path)} | (environment or {})
        arguments = ([str(part) for part in program], processes, cwd, new_session, changed, self._files)
        self._process = context().Process(target=_become, args=arguments)
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit status, once it has ended; minus the signal that ended it."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float = 240) -> tuple[int, str, str]:
        """Exit status, standard output and standard error, when it has ended."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise subprocess.TimeoutExpired(str(self._process), timeout)
        out, err = (file.read_text() if file.exists() else "" for file in self._files)
        self._outputs.cleanup()
        return self._process.exitcode, out, err


def forked(*program: object, **options) -> str:
    """What a program prints that ends well."""
    code, out, err = Forked(*program, **options).communicate()
    assert code == 0, err[-3000:]
    return out


def _become(
    program: list[str],
    processes: int,
    cwd: Path | None,
    new_session: bool,
    environment: dict[str, str],
    files: list[Path],
) -> None:
    if new_session:
        os.setsid()
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # another one, maybe
    # what it is to be, compiler or interpreter, the environment tells while it is imported
    for name in [name for name in sys.modules if re.match(r"triton(?!\._C)\b", name)]:
        del sys.modules[name]
    reload_config()  # Numba's, which was read when it was imported
    if cwd is not None:
        os.chdir(cwd)
    if processes == 1:
        _run(program)
        return
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    flags = [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
        "--rdzv-id",
        Path(files[0]).parent.name,
    ]
    flags += ["--nproc-per-node", str(processes)]
    config, *_ = config_from_args(parse_args([*flags, *program]))
    config.start_method = "fork"
    elastic_launch(config, _work)(program)


def _work(program: list[str]) -> None:
    """In a process of ``torchrun``, which waits for this to return."""
    try:
        with mock.patch.object(os, "_exit", sys.exit):  # by which gvit ends there
            _run(program)
    except SystemExit as end:
        if end.code:
            raise


def _run(program: list[str]) -> None:
    name, *arguments = program
    if name == "-m":
        module, *arguments = arguments
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = program
        sys.path.insert(0, os.path.dirname(name))
        runpy.run_path(name, run_name="__main__")
