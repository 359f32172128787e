"""Jobs side by side in processes of their own, with progress, and an end in peace when interrupted."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from gvit.errors import (
    InputError,
    counted,
    first_line,
    for_python,
    is_out_of_memory,
    option,
    wording,
)
from gvit.progress import ProgressBar
from gvit.reproduction.jobs import Collection, CrossEvaluation, Job, Machine, Training, Trunk, unusual
from gvit.reproduction.same_images import checksum_of, data_now
from gvit.reproduction.trunks import share_trunks
from gvit.training.run import Run
from gvit.training.train import Interrupted

_POLL_SECONDS = 0.5

# of a worker process
_stop: Event
_reports: Any


def unfinished(jobs: Iterable[Job]) -> list[Job]:
    """What has to be done for them, each once, needs first, common beginnings only once."""
    found: dict[Path, Job] = {}

    def visit(job: Job) -> None:
        if job.done or job.folder in found:
            return
        for need in job.needs:
            visit(need)
        found[job.folder] = job

    for job in jobs:
        visit(job)
    trainings = [job for job in found.values() if isinstance(job, Training)]
    branches: dict[Path, Job] = {training.folder: training for training in share_trunks(trainings)}
    single, found = found, {}
    for folder, job in single.items():
        visit(branches.get(folder, job))
    return list(found.values())


def check_data(jobs: Iterable[Job]) -> None:
    """See to it that what is done or begun has the images that are there now.

    Raises:
        InputError: a training, or a set of fits, has others; or a result is damaged.
    """
    for job in jobs:
        check_data(job.needs)
        result = job.result if job.done else None
        if isinstance(job, CrossEvaluation) or any(isinstance(need, Collection) for need in job.needs):
            continue
        assert isinstance(job, Training | Trunk | Collection)
        data = job.config.data
        try:
            found, now = _images_then(job, result), data_now(data)[1]
        except InputError:  # what is done needs no data any more
            continue
        if found not in (None, now):
            raise InputError(
                f"{data.data_dir or data.dataset}: other images than {job.folder} was made of; put those back, "
                f"or begin anew with another {wording('store', '--runs')}"
            )


def _images_then(job: Training | Trunk | Collection, result: dict[str, Any] | None) -> str | None:
    """The checksum of the images that a job was begun with, where that was written down."""
    if isinstance(job, Collection):
        return job.begun_with
    if result is not None:
        return result.get("data")  # an older gvit did not
    return checksum_of(job.config, job.folder) if Run(job.folder).split_file.exists() else None


def execute(
    jobs: Iterable[Job],
    parallel: int,
    machine: Machine,
    console: Console,
    worded: Callable[[str], str] = for_python,
) -> None:
    """Do all that is not done, ``parallel`` jobs at a time, each on its share of the cores.

    The bar takes all jobs for equally long.

    Args:
        jobs: what is wanted; what they need is done, too.
        parallel: at least 1.
        machine: where to compute.
        console: where progress is shown.
        worded: how settings are named there: ``gvit.errors.for_python`` or ``for_command_line``.

    Raises:
        KeyboardInterrupt: by Ctrl-C; running trainings are saved, and the same call goes on with them.
        InputError: a job's, when all are done that don't need it; or another process works in the same store, or a
            job's process was killed or could not begin, and the other trainings are saved.
    """
    jobs = list(jobs)
    if not unfinished(jobs):
        return
    with _alone(jobs[0].folder.parent):
        # what is there may have become more until now
        failed = _execute(unfinished(jobs), parallel, machine, console, worded)
    if failed:
        (name, reason), *others = failed.items()
        more = f". {counted(len(others), 'other job')} failed, too, as told above" if others else ""
        raise InputError(f"{name}: {reason}{more}")


@contextmanager
def _alone(store: Path) -> Iterator[None]:
    """Have a store for this process alone: another one's jobs would take the folders of these.

    Raises:
        InputError: another process has it, or it cannot be written.
    """
    lock = FileLock(store / ".lock", timeout=0)
    try:
        store.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{store}: another gvit reproduce works here; wait for it, or use another {wording('store', '--runs')}"
        ) from None
    except OSError as error:
        raise InputError(f"{store}: cannot write runs here ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.release()


def _execute(
    waiting: list[Job], parallel: int, machine: Machine, console: Console, worded: Callable[[str], str]
) -> dict[str, str]:
    """Do jobs, those first that others need; gives what was wrong with those that failed, by their folders' names."""
    failed: dict[str, str] = {}
    context = multiprocessing.get_context("spawn")
    with _held_back():  # multiprocessing starts a process of its own for what is shared
        stop, reports = context.Event(), context.Queue()
    threads = str(threads_per_job(parallel))
    shares = {job.folder.name: 0.0 for job in waiting}
    # read when a process loads its libraries
    with (
        _environment(OMP_NUM_THREADS=threads, NUMBA_NUM_THREADS=threads),
        ProgressBar("jobs", len(waiting), console=console) as bar,
    ):
        pool = ProcessPoolExecutor(parallel, context, _start_worker, (stop, reports))
        running: dict[Future[None], Job] = {}
        others, workers = {*active_children()}, set[BaseProcess]()
        broken: BrokenProcessPool | None = None
        try:
            while waiting or running:
                for job in [job for job in waiting if all(need.done for need in job.needs)]:
                    if len(running) < parallel:
                        waiting.remove(job)
                        with _held_back():
                            running[pool.submit(_work, job, machine)] = job
                workers |= {*active_children()} - others
                finished, _ = wait(running, _POLL_SECONDS, FIRST_COMPLETED)
                if any(worker.exitcode is not None for worker in workers):
                    raise BrokenProcessPool  # of the one that it started last, the pool may hear much later
                while not reports.empty():
                    name, share = reports.get()
                    shares[name] = max(shares[name], share)
                for future in finished:
                    job = running.pop(future)
                    shares[job.folder.name] = 1.0
                    try:
                        future.result()
                    except InputError as error:
                        failed[job.folder.name] = error.args[0]
                        lost = _needing(job, waiting)
                        waiting = [other for other in waiting if other not in lost]
                        shares |= {other.folder.name: 1.0 for other in lost}
                        without = f"; {counted(len(lost), 'job')} left out that would need it" if lost else ""
                        say(console, f"{job.folder.name}  {worded(error.args[0])}{without}")
                        continue
                    say(console, f"{_summary(job)}  {len(waiting) + len(running)} left")
                bar.update(sum(shares.values()), f"{len(waiting) + len(running)} of {len(shares)} left")
        except BrokenProcessPool as error:  # to the others the pool sends SIGTERM
            broken = error
        finally:
            with _held_back():  # asked once more, it is still not done before all is saved
                stop.set()
                pool.shutdown(cancel_futures=True)
    if broken is not None:
        # of all of them, the exit codes are known now
        raise _ended([worker.exitcode or 0 for worker in workers], parallel) from broken
    return failed


def _ended(codes: Iterable[int], parallel: int) -> InputError:
    """What is to be said where a job's process has ended before its time; ``codes`` are those of all processes."""
    own = next((code for code in codes if code > 0), None)
    if own is not None:  # nobody killed it: it could not begin, and has told why
        guard = wording("; a script calls reproduce() below if __name__ == '__main__':", "")
        return InputError(
            f"a job's process ended with exit code {own}, for what stands above{guard}. What was done is saved"
        )
    advice = f"; where memory ran out, fewer {wording('parallel jobs', '--jobs')} need less"
    return InputError(
        f"a job's process was killed{advice if parallel > 1 else ''}. What was done is saved; the same "
        f"{wording('call', 'command')} goes on"
    )


def say(console: Console, text: str) -> None:
    """A line as it is, whatever the console would make of brackets and colons in it."""
    console.print(text, markup=False, highlight=False, emoji=False)


def _needing(failed: Job, waiting: Iterable[Job]) -> list[Job]:
    """The jobs that cannot be done without another, directly or by what they need themselves."""
    lost = {failed.folder: failed}
    for job in waiting:  # needs come first
        if any(need.folder in lost for need in job.needs):
            lost[job.folder] = job
    return [*lost.values()][1:]


def threads_per_job(parallel: int) -> int:
    """Each job's share of the cores where ``parallel`` run at a time."""
    return max(1, (os.cpu_count() or 1) // parallel)


def _summary(job: Job) -> str:
    result = job.result
    parts = [job.folder.name]
    if result.get("top1") is not None:
        parts.append(f"top-1 {100 * result['top1']:.2f} %")
    if result.get("psnr") is not None:
        parts.append(f"{result['psnr']:.2f} dB")
    return "  ".join([*parts, *unusual(result)])


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _held_back() -> Iterator[None]:
    """Signals to stop wait, here and in processes that are started meanwhile, where ``_start_worker`` lets them in."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(stop: Event, reports: Any) -> None:
    global _stop, _reports
    _stop, _reports = stop, reports
    # a terminal sends these to all processes; the main one tells when to stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


def _work(job: Job, machine: Machine) -> None:
    latest, terminated = 0.0, False

    def progress(share: float) -> None:
        nonlocal latest
        if time.monotonic() - latest > _POLL_SECONDS:
            latest = time.monotonic()
            _reports.put((job.folder.name, share))

    def terminate(*_: object) -> None:
        nonlocal terminated
        terminated = True

    # comes to a whole group of processes, or to the workers that are left when one has died: save before the end
    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        with suppress(Interrupted):
            job.run(machine, progress, lambda: terminated or _stop.is_set())
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"not enough memory ({first_line(error)}); {option('accumulate')} or fewer "
            f"{wording('parallel jobs', '--jobs')} need less"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, previous)
        if terminated:
            signal.raise_signal(signal.SIGTERM)
