"""Several processes compile the CPU renderer at once, into one folder that is empty."""

import os
import subprocess
import sys

DRAW = """
import torch
from gvit.rendering import rasterize
scene = torch.full((1, 2), 2.0), torch.eye(2)[None], torch.ones(1, 1), torch.ones(1)
image, _ = rasterize(*scene, 4, 4, backend="cpu")
assert 0.5 < image.max() <= 1, image
"""


def test_four_processes_compile_into_one_empty_folder(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", DRAW], env=environment, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
        for _ in range(4)
    ]
    for process in processes:
        _, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
    assert list(tmp_path.rglob("*.nbc"))
    # what they left is whole: a fifth has nothing to compile
    fifth = subprocess.run(
        [sys.executable, "-c", DRAW], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert fifth.returncode == 0, fifth.stderr
    assert "compiles" not in fifth.stderr
