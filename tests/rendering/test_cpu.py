"""The CPU backend as a citizen: threads, processes, compiled kernels and where they are kept."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from scenes import random_scene

from forked import Forked
from gvit.rendering import rasterize
from gvit.rendering.cpu import _cache_directory

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture
def any_threads():
    """Lets the test set PyTorch's number of threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def picture_and_gradients(batch):
    scene = [tensor.requires_grad_() for tensor in random_scene(batch, 400, 150, 130)]
    image, alpha = rasterize(*scene[:4], 150, 130, background=scene[4], backend="cpu")
    return [image, alpha, *torch.autograd.grad(image.square().sum() + alpha.sum(), scene)]


@pytest.mark.parametrize("batch", [1, 3])
def test_the_number_of_threads_changes_no_bit(any_threads, batch):
    results = []
    for threads in (1, 2, 3, 7, 1):
        torch.set_num_threads(threads)
        results.append(picture_and_gradients(batch))
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


def test_several_threads_may_draw_at_once(any_threads):
    torch.set_num_threads(2)
    wanted = picture_and_gradients(1)
    results = []

    def work():
        for _ in range(3):
            results.append(picture_and_gradients(1))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 12
    assert all(all(map(torch.equal, result, wanted)) for result in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_may_draw(any_threads):
    """As a data loader's worker does, after its parent has drawn on several threads.

    PyTorch's own operations may not use threads after a fork, the renderer's may: nothing here is large enough
    (32,768 elements) for the former, while 400 Gaussians are for the latter.
    """
    torch.set_num_threads(2)
    scene = random_scene(1, 400, 100, 90)
    wanted, _ = rasterize(*scene[:4], 100, 90, background=scene[4], backend="cpu")
    expected = wanted.numpy().tobytes()
    child = os.fork()
    if child == 0:
        image, _ = rasterize(*scene[:4], 100, 90, background=scene[4], backend="cpu")
        os._exit(0 if image.numpy().tobytes() == expected else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


DRAW = """
import torch, gvit
print(gvit.render(gvit.Gaussians(torch.zeros(1, 4, 9)), 8, 8).sum().item())
"""


def test_unwritable_folders_and_one_compilation(tmp_path):
    """No home, no chosen folder: a temporary one is used, and found again by the next process."""
    for variable in ("HOME", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        # not even root can write below a file
        (tmp_path / variable).touch()
    places = {name: str(tmp_path / name / "x") for name in ("HOME", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    (tmp_path / "temporary").mkdir()
    (tmp_path / "draw.py").write_text(DRAW)
    places["TMPDIR"] = str(tmp_path / "temporary")
    (_, first, told), (_, second, told_again) = (
        Forked(tmp_path / "draw.py", environment=places).communicate() for _ in range(2)
    )
    assert told.count("compiles its CPU renderer") == 1
    assert told_again == ""
    assert first == second


@pytest.mark.skipif(sys.platform != "linux", reason="the user's cache folder has another name elsewhere")
def test_kernels_are_kept_in_numbas_folder_or_else_in_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    assert _cache_directory().parent == tmp_path / "numba"
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    assert _cache_directory().parent == tmp_path / "user" / "gvit"
    assert _cache_directory().is_dir()


def test_importing_is_light():
    code = (
        "import sys, gvit.rendering; print([m for m in ('numba', 'triton', 'llvmlite') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
