"""Images a second of each source beside a bare Pillow loop, and the memory that a loader holds.

    python benchmarks/data.py [--images FOLDER] [--quick]

The same encoded images lie in class folders, Parquet, WebDataset tars and a data set of the library ``datasets``; the
evaluation loader reads them, batched, in the main process. The bare loop beside it opens each file with Pillow,
converts, resizes and crops it as the evaluation does, and makes a tensor of it: nobody can do with less. Time is that
of the process on one core, the best of several turns that alternate between loop and loader, so that a busy machine
spoils neither. Memory is what the process has resident after every thousand of 10,000 images, of 128 px where they are
made up. Images are those of a folder, or pieces of scikit-image's photograph of 32, 128 and 384 px. Writes
``benchmarks/results/data.json``.
"""

from __future__ import annotations

import argparse
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # images a second of one core
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from skimage.data import astronaut

from gvit.data.images import find_images
from gvit.data.loading import EvaluationSamples, evaluation_loader
from gvit.data.sources import Source, load_source
from gvit.data.transforms import eval_transform
from gvit.models.card import Preprocessing
from provenance import describe, provenance, write_results

BATCH, NUM_CLASSES = 32, 2
SIDES = (32, 128, 384)  # pixels of the made-up images


def pieces(side: int, count: int) -> list[bytes]:
    """Pieces of a photograph as JPEG files."""
    whole, rng = Image.fromarray(astronaut()), np.random.default_rng(side)
    found = []
    for _ in range(count):
        extent = int(rng.integers(min(side, 400), 501))
        left, top = rng.integers(0, 512 - extent, 2)
        stream = io.BytesIO()
        whole.resize((side, side), box=(left, top, left + extent, top + extent)).save(
            stream, "jpeg", quality=90
        )
        found.append(stream.getvalue())
    return found


def write(root: Path, encoded: Sequence[bytes], suffix: str) -> None:
    """The images in every layout, the same in both splits, in classes that alternate."""
    names = [f"{number:05}" for number in range(len(encoded))]
    labels = [number % NUM_CLASSES for number in range(len(encoded))]
    for split in ("train", "val"):
        for name, label, content in zip(names, labels, encoded, strict=True):
            file = root / "folder" / split / str(label) / f"{name}{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    columns = {"image": [{"bytes": content, "path": None} for content in encoded], "label": labels}
    for place in ("parquet", "wds"):
        (root / place).mkdir()
    for split in ("train", "test"):
        pq.write_table(pa.table(columns), root / "parquet" / f"{split}-0.parquet")
        with tarfile.open(root / "wds" / f"{split}-0.tar", "w") as tar:
            for name, label, content in zip(names, labels, encoded, strict=True):
                for ending, data in ((suffix, content), (".cls", str(label).encode())):
                    member = tarfile.TarInfo(name + ending)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    whole = datasets.Dataset.from_dict(columns, features=features)
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": whole, "test": whole}).save_to_disk(root / "hfds")


def bare(files: Sequence[Path], preprocessing: Preprocessing) -> None:
    """Each file opened, converted, resized and cropped by Pillow, as a tensor."""
    size = preprocessing.img_size
    resized = round(size / preprocessing.crop_pct)
    for file in files:
        with Image.open(file) as image:
            image = image.convert("RGB")
        scale = resized / min(image.size)
        width, height = (round(scale * side) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
        torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)


def loaded(source: Source, preprocessing: Preprocessing) -> None:
    for _ in evaluation_loader(EvaluationSamples(source, eval_transform(preprocessing)), BATCH):
        pass


def seconds(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def resident() -> float:
    """MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(case: str, encoded: Sequence[bytes], suffix: str, turns: int, seen: int) -> list[dict]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), encoded, suffix)
        files = sorted((Path(folder) / "folder" / "val").rglob(f"*{suffix}"))
        side = min(Image.open(files[0]).size)
        preprocessing = Preprocessing(min(224, side), "center", 0.875)
        for name in ("folder", "parquet", "wds", "hfds"):
            source = load_source(name, "test", Path(folder) / name)
            times: dict[str, list[float]] = {"bare": [], "loader": []}
            for _ in range(turns):
                times["bare"].append(seconds(lambda: bare(files, preprocessing)))
                times["loader"].append(seconds(lambda source=source: loaded(source, preprocessing)))
            speed = {way: len(files) / min(found) for way, found in times.items()}
            memory = [resident()]
            while len(memory) <= seen // 1000:
                for _ in range(-(-1000 // len(files))):
                    loaded(source, preprocessing)
                memory.append(resident())
            row = {"case": case, "source": name, "img_size": preprocessing.img_size}
            row |= {"bare_per_s": speed["bare"], "loader_per_s": speed["loader"]}
            rows.append(row | {"ratio": speed["loader"] / speed["bare"], "resident_mib": memory})
            print(line(rows[-1]), flush=True)
    return rows


def line(row: dict) -> str:
    grown = row["resident_mib"][-1] - row["resident_mib"][min(1, len(row["resident_mib"]) - 1)]
    return (
        f"{row['case']:<10}{row['source']:<9}{row['img_size']:>5}{row['bare_per_s']:>12.0f}"
        f"{row['loader_per_s']:>12.0f}{100 * row['ratio']:>8.0f} %{row['resident_mib'][-1]:>10.0f}{grown:>+9.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of image files; made up when not given")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    count, turns, seen = (100, 2, 0) if options.quick else (400, 8, 10_000)
    if options.images is None:
        cases = {
            f"{side} px": (pieces(side, count), ".jpg", turns, seen if side == 128 else 0) for side in SIDES
        }
    else:
        files = find_images([options.images])[:count]
        encoded = [file.read_bytes() for file in files]
        cases = {options.images.name: (encoded, files[0].suffix, turns, seen)}
    print(
        f"{'images':<10}{'source':<9}{'size':>5}{'bare /s':>12}{'loader /s':>12}{'ratio':>10}{'MiB':>10}{'grown':>9}"
    )
    rows = [row for case, given in cases.items() for row in measure(case, *given)]
    if not options.quick:
        settings = {"images": count, "turns": turns, "batch": BATCH, "seen": seen, "cases": list(cases)}
        write_results("data", settings, rows)
    print(describe(provenance()))


if __name__ == "__main__":
    main()
