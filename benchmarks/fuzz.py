"""Damaged files of every kind that gvit reads: each is read, or refused in one line.

    python benchmarks/fuzz.py [--minutes 10] [--seed 0] [--targets gaussians images ...] [--out findings]

Begins with good files: Gaussians, shards of sets and their manifest, Parquet and tar shards of images, image files,
configurations of runs, weights. Bytes are changed, cut off, repeated and moved; JSON, also that within the headers of
safetensors files, is changed as JSON: other values, types, names and lengths. What reads it may succeed or raise
``InputError``. Anything else is a finding: another exception, a crash, more than 20 seconds, or more than 2 GiB of
memory. Its input is kept in the folder ``findings``, with what happened. Prints the counts; exit code 1 where
there are findings. Every target is read in a process of its own, which is started again where it ended. The tests
read a few hundred of the same inputs (``tests/benchmarks/test_fuzz.py``). Linux only.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import resource
import signal
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import gvit
from gvit.data.images import open_image
from gvit.data.sources import load_source, tars
from gvit.data.sources.gaussians import open_gaussians
from gvit.errors import InputError
from gvit.gaussians.shards import MANIFEST_NAME, Manifest, Shard, read_set, read_shard, write_shard
from gvit.models.registry import create_model
from gvit.recipes import debug
from gvit.training.config import TrainConfig

SECONDS = 20  # for one input
MEMORY = 2 * 2**30  # bytes more than before, of addresses
_INTERESTING = (0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 0.5, 1e-300, 1e300, float("inf"), float("nan"), 2**31, 2**63, 10**15, 10**400),
    *("", "x", "../../x", "\x1b[2J", "1", "é" * 300, [], [1], {}, {"a": 1}, [[]], ["x"] * 50, "[" * 100_000),
)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        at = rng.randrange(len(changed) + 1)
        length = rng.choice((1, 2, 4, 8, 40))
        kind = rng.randrange(6)
        if kind == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:  # a number that is a length or an offset, perhaps
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(_INTERESTING) % 256**size
            changed[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length] * rng.choice((1, 20))
        elif kind == 4:
            del changed[at:]
        else:
            other = rng.randrange(len(changed) + 1)
            changed[at:at] = changed[other : other + length]
    return bytes(changed)


def mutate_json(value: Any, rng: random.Random) -> Any:
    """The same document with something changed somewhere within."""
    if isinstance(value, str) and value[:1] in "{[" and rng.random() < 0.8:
        try:  # metadata hold JSON as text
            return json.dumps(mutate_json(json.loads(value), rng))
        except ValueError:
            pass
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.15:
        return rng.choice(_VALUES)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, kind = rng.choice(keys), rng.randrange(8)
    changed = value.copy()
    if kind == 0:
        del changed[key]
    elif kind == 1 and isinstance(changed, dict):
        changed[rng.choice(("x", "", "../x", "\x1b[2J"))] = changed.pop(key)
    elif kind == 2 and isinstance(changed, list):
        changed = changed * rng.choice((2, 100))
    else:
        changed[key] = mutate_json(changed[key], rng)
    return changed


def mutate_text(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return rng.choice((mutate_bytes(data, rng), b"[" * 100_000))
    return json.dumps(mutate_json(json.loads(data), rng)).encode()


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.4:
        return mutate_bytes(data, rng)
    (size,) = struct.unpack("<Q", data[:8])
    header = json.dumps(mutate_json(json.loads(data[8 : 8 + size]), rng)).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        seeds: good ones.
        mutate: changes one.
        read: reads what is in a file of the name, in a folder of its own.
        name: of the file there.
    """

    seeds: list[bytes]
    mutate: Callable[[bytes, random.Random], bytes]
    read: Callable[[Path], object]
    name: str


def read_gaussians(file: Path) -> None:
    gvit.render(open_gaussians(file), 8, 8)


def read_rows(file: Path) -> None:
    shard = read_shard(file)
    for row in range(min(len(shard), 3)):
        gvit.render(shard[row], 8, 8)


def read_images(dataset: str, file: Path) -> None:
    source = load_source(dataset, "train", file.parent)
    for row in range(min(len(source), 3)):
        source.load(row)


def image_files() -> list[bytes]:
    rng, files = np.random.default_rng(0), []
    pixels = rng.integers(0, 256, (9, 12, 4), np.uint8)
    for form, mode in (("png", "RGBA"), ("png", "P"), ("jpeg", "RGB"), ("gif", "P"), ("bmp", "RGB")):
        files.append((form, Image.fromarray(pixels).convert(mode)))
    files += [(form, Image.fromarray(pixels).convert("RGB")) for form in ("tiff", "webp", "ppm")]
    files += [("png", Image.fromarray(rng.integers(0, 2**16, (9, 12)).astype(np.uint16)))]
    found = []
    for form, image in files:
        stream = io.BytesIO()
        image.save(stream, form)
        found.append(stream.getvalue())
    return found


def targets(folder: Path) -> dict[str, Target]:
    """All of them; ``folder`` is for the good files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def written(name: str, write: Callable[[Path], object]) -> bytes:
        write(folder / name)
        return (folder / name).read_bytes()

    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(5, 6, 9, generator=generator)
    one = gvit.Gaussians(raw[0], nominal_count=6)
    names = [f"{number}.png" for number in range(5)]
    shard = Shard(raw, names, [1.0] * 5, [(8, 8)] * 5, [20.0] * 5, [0, 1, 0, 1, 0], 1.0, 6)
    images = image_files()
    table = pa.table({"image": [{"bytes": i, "path": None} for i in images], "label": [0, 1, 0] * 3})

    def write_tar(file: Path) -> None:
        with tarfile.open(file, "w") as tar:
            for number, content in enumerate(images[:4]):
                for ending, data in ((".png", content), (".cls", str(number % 2).encode())):
                    member = tarfile.TarInfo(f"{number}{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))

    manifest = Manifest({"model": "m"}, 6, "float32", "safetensors", 5, ["a", "b"], {"train": 5}, "0" * 16)
    model = create_model("gvit_tiny", depth=1, embed_dim=12, num_heads=1, img_size=16, num_gaussians=4)
    return {
        "gaussians": Target(
            [
                written("one.safetensors", one.save),
                written("size.safetensors", lambda file: one.save(file, size=(8, 8))),
                written("half.safetensors", one.to(torch.float16)[1:].save),
            ],
            mutate_safetensors,
            read_gaussians,
            "one.safetensors",
        ),
        "shards": Target(
            [written("s.safetensors", lambda file: write_shard(file, shard))],
            mutate_safetensors,
            read_rows,
            "s.safetensors",
        ),
        "parquet shards": Target(
            [written("s.parquet", lambda file: write_shard(file, shard))],
            mutate_bytes,
            read_rows,
            "s.parquet",
        ),
        "manifests": Target(
            [written(MANIFEST_NAME, lambda file: manifest.write(file.parent))],
            mutate_text,
            lambda file: read_set(file.parent),
            MANIFEST_NAME,
        ),
        "parquet images": Target(
            [written("train-0.parquet", lambda file: pq.write_table(table, file))],
            mutate_bytes,
            lambda file: read_images("parquet", file),
            "train-0.parquet",
        ),
        "tars": Target(
            [written("train-0.tar", write_tar)],
            mutate_bytes,
            lambda file: read_images("wds", file),
            "train-0.tar",
        ),
        "images": Target(images, mutate_bytes, open_image, "image"),
        "configurations": Target(
            [debug().to_json().encode()],
            mutate_text,
            lambda file: TrainConfig.from_json(file.read_text("utf-8", "replace")),
            "config.json",
        ),
        "weights": Target(
            [written("model.safetensors", lambda file: gvit.save_model(model, file))],
            mutate_safetensors,
            gvit.load_model,
            "model.safetensors",
        ),
    }


def attempt(target: Target, seed: int, folder: Path) -> tuple[str, str | None]:
    """Read one input, which is left in the folder.

    Returns:
        ``read`` or ``refused``, or the name of another exception, and then its traceback.
    """
    rng = random.Random(seed)
    (folder / target.name).write_bytes(target.mutate(rng.choice(target.seeds), rng))
    try:
        target.read(folder / target.name)
    except InputError:
        return "refused", None
    except Exception as error:
        return type(error).__name__, traceback.format_exc()
    return "read", None


def work(target: Target, seed: int, until: float, folder: Path, counts: Any) -> None:
    """Read one input after the other; ends with the first finding, whose traceback it leaves in the folder."""
    warnings.simplefilter("ignore")
    addresses = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (addresses + MEMORY, resource.RLIM_INFINITY))
    while time.monotonic() < until:
        signal.alarm(SECONDS)  # nobody handles it: it ends the process
        outcome, told = attempt(target, seed + counts[0] + counts[1], folder)
        if told is not None:
            (folder / "traceback.txt").write_text(told)
            os._exit(1)
        counts[outcome == "refused"] += 1
    os._exit(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("findings"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    fork, findings = multiprocessing.get_context("fork"), Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        tars.user_cache_path = lambda *_, **__: Path(place) / "cache"
        known = targets(Path(place))
        gvit.render(gvit.Gaussians(torch.zeros(1, 9)), 8, 8)  # compiled before, or each process would
        chosen = {name: known[name] for name in options.targets or known}
        print(f"{'target':<18}{'read':>9}{'refused':>9}{'findings':>9}")
        for name, target in chosen.items():
            until = time.monotonic() + 60 * options.minutes / len(chosen)
            counts, seed = np.zeros(2, np.int64), options.seed
            while time.monotonic() < until:
                shared = fork.Array("q", 2, lock=False)
                with tempfile.TemporaryDirectory() as folder:
                    process = fork.Process(target=work, args=(target, seed, until, Path(folder), shared))
                    process.start()
                    process.join()
                    counts += shared[:]
                    seed += sum(shared) + 1
                    if process.exitcode:
                        findings[name] += 1
                        keep(options.out, name, seed - 1, Path(folder) / target.name, process.exitcode)
                if findings[name] >= 10:
                    break
            print(f"{name:<18}{counts[0]:>9}{counts[1]:>9}{findings[name]:>9}", flush=True)
    return 1 if findings.total() else 0


def keep(out: Path, name: str, seed: int, file: Path, code: int) -> None:
    """The input of a finding, and what happened."""
    out.mkdir(parents=True, exist_ok=True)
    kept = out / f"{name.replace(' ', '-')}-{seed}{file.suffix}"
    kept.write_bytes(file.read_bytes())
    trace = file.with_name("traceback.txt")
    ended = "took too long" if code == -signal.SIGALRM else f"ended with {code}"
    told = trace.read_text() if trace.is_file() else f"the process {ended}\n"
    kept.with_name(f"{kept.name}.txt").write_text(told)
    print(f"{kept}: {told.strip().splitlines()[-1][:200]}")


if __name__ == "__main__":
    sys.exit(main())
