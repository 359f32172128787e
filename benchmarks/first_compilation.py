"""Several processes at once compile the CPU renderer, into a cache that is empty, and draw.

    python benchmarks/first_compilation.py [--processes 4]

Each has to succeed and to draw the same; one that comes after them has nothing to compile. Exit code 1 where it is
not so. It takes a minute of one core for four, which is why it is no test.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

DRAW = """
import torch
from gvit.rendering import rasterize
scene = torch.full((1, 2), 2.0), torch.eye(2)[None], torch.ones(1, 1), torch.ones(1)
print(rasterize(*scene, 4, 4, backend="cpu")[0].tolist())
"""


def start(cache: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", DRAW]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        processes = [start(Path(folder)) for _ in range(options.processes)]
        answers = [(*process.communicate(), process.returncode) for process in processes]
        late = start(Path(folder))
        out, err = late.communicate()
    failed = [told for _, told, code in answers if code] + ([err] if late.returncode else [])
    same = {drawn for drawn, _, _ in answers} == {out}
    compiled = sum("compiles" in told for _, told, _ in answers)
    print(
        f"{compiled} of {len(answers)} processes compiled, {len(failed)} failed; all drew "
        f"{'the same' if same else 'DIFFERENT PICTURES'}; a later one compiled "
        f"{'again' if 'compiles' in err else 'nothing'}"
    )
    print(*failed, sep="\n")
    return 0 if same and not failed and "compiles" not in err else 1


if __name__ == "__main__":
    sys.exit(main())
