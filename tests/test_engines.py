"""Encoding and classifying within other engines: alone, and by two workers of the real ones."""

import importlib.util
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gvit
from gvit.engines import EncodeBatches, PredictBatches
from gvit.errors import InputError
from gvit.prediction import load_images
from pretrained_models import trained

PATHS = os.pathsep.join(path for path in sys.path if path)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    gvit.save_model(trained(img_size=24, num_gaussians=20, looks=2, num_classes=3), path)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """Ten images, and one that is none."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for number in range(10):
        pixels = generator.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((30 + number, 40), Image.Resampling.BICUBIC).save(
            folder / f"{number}.png"
        )
    (folder / "broken.png").write_text("text")
    return sorted(map(str, folder.iterdir()))


def expected(model: str, files: list[str]) -> dict[str, np.ndarray]:
    loaded = gvit.load_model(model)
    raw = loaded.encode(load_images(files[:-1], loaded)).raw.detach().numpy()
    return dict(zip(map(os.path.basename, files[:-1]), raw, strict=True))


def check(rows: list[tuple[str, np.ndarray | None, str]], model: str, files: list[str]) -> None:
    """Names, numbers and what was wrong, of every image once."""
    wanted = expected(model, files)
    found = {os.path.basename(name): (raw, error) for name, raw, error in rows}
    assert len(rows) == len(found) == 11
    assert found.pop("broken.png")[1].endswith("broken.png: not an image file")
    assert found.keys() == wanted.keys()
    for name, (raw, error) in found.items():
        assert error == ""
        np.testing.assert_allclose(np.reshape(raw, (20, 9)), wanted[name], atol=1e-5)


@pytest.mark.parametrize("column", ["path", "bytes", "content", "image"])
def test_columns_of_every_kind(model, files, column):
    contents = [Path(file).read_bytes() for file in files]
    batch = {"label": np.arange(11), "path": files}
    if column == "image":
        del batch["path"]
        batch["image"] = [{"bytes": c, "path": file} for c, file in zip(contents, files, strict=True)]
    elif column != "path":
        batch[column] = contents
    encode = pickle.loads(pickle.dumps(EncodeBatches(model, keep=["label"])))  # small, and sent to workers
    assert len(pickle.dumps(encode)) < 1000
    columns = encode(batch)
    assert columns["label"].tolist() == list(range(11))
    check(list(zip(*(columns[name] for name in ("name", "raw", "error")), strict=True)), model, files)
    assert np.isnan(columns["raw"][-1]).all()
    with pytest.raises(InputError, match="no images in the columns label"):
        encode({"label": [1]})
    with pytest.raises(InputError, match="no column 'label' to keep; there are 'path'"):
        encode({"path": files})
    with pytest.raises(InputError, match="the column 'psnr' cannot be kept: a result has this name"):
        EncodeBatches(model, keep=["label", "psnr"])


@pytest.mark.parametrize("rows", [0, 1])
def test_rows_hold_all_that_their_gaussians_need(files, rows):
    columns = EncodeBatches("gvit_tiny.photos", num_gaussians=50, looks=4, max_side=64)(
        {"path": files[:rows]}
    )
    assert columns["name"].dtype.kind == columns["error"].dtype.kind == "U"  # of no image, too
    for row in range(rows):
        raw, aspect = torch.from_numpy(columns["raw"][row]), columns["aspect"][row]
        gaussians = gvit.Gaussians(
            raw, columns["scale_factor"][row], int(columns["nominal_count"][row]), aspect
        )
        size = int(columns["height"][row]), int(columns["width"][row])
        image = torch.from_numpy(np.array(Image.open(files[row]))).permute(2, 0, 1) / 255
        drawn = gvit.render(gaussians[None], *size)[0].clamp(0, 1)
        assert size == image.shape[1:]
        assert gvit.losses.psnr(drawn[None], image[None]).item() == pytest.approx(
            columns["psnr"][row], abs=1e-3
        )


def test_a_batch_of_large_images_is_held_in_8_bits_and_without_its_pictures(files, encoded_rows):
    """Of 64 photographs of a camera, floats and pictures would be tens of gigabytes."""
    dtypes, alive = encoded_rows
    columns = EncodeBatches("gvit_tiny.photos", num_gaussians=9, looks=1, max_side=16)({"path": files[:4]})
    assert columns["error"].tolist() == [""] * 4
    assert dtypes == {torch.uint8}
    assert len(alive) == 4
    assert max(alive) <= 2


@pytest.mark.parametrize(
    "batch",
    [
        {"bytes": ["file", None, float("nan")]},
        {"content": ["file", None, None], "path": ["a.png", None, None]},
        {"image": [{"bytes": "file"}, None, {"bytes": None, "path": None}]},
    ],
)
def test_what_is_null_costs_only_its_row(model, files, batch):
    content = Path(files[0]).read_bytes()
    batch = {
        name: [content if value == "file" else value for value in column] for name, column in batch.items()
    }
    if "image" in batch:
        batch["image"][0] = {"bytes": content}
    columns = EncodeBatches(model)(batch)
    assert columns["error"].tolist() == [
        "",
        *(f"image {row}: null, neither bytes nor a path" for row in (1, 2)),
    ]
    assert np.isfinite(columns["raw"][0]).all()
    assert np.isnan(columns["raw"][1:]).all()
    assert PredictBatches(model)(batch)["error"].tolist() == columns["error"].tolist()


def test_bytes_that_are_null_are_read_from_the_path(model, files):
    encode = EncodeBatches(model)
    wanted = encode({"path": files[:1]})
    for batch in ({"image": [{"bytes": None, "path": files[0]}]}, {"bytes": [None], "path": files[:1]}):
        found = encode(batch)
        assert found["error"].tolist() == [""]
        np.testing.assert_array_equal(found["raw"], wanted["raw"])


def test_weights_that_took_the_place_of_others_are_read(model, files, tmp_path):
    path = tmp_path / "model.safetensors"
    other = trained(img_size=24, num_gaussians=20, looks=2, num_classes=3)
    with torch.no_grad():
        other.classifier.head.bias += torch.tensor([0.0, 0.0, 100.0])
    answers = []
    for wanted in (gvit.load_model(model), other):
        gvit.save_model(wanted, path)
        answers.append(PredictBatches(str(path))({"path": files[:1]})["probability"][0])
    assert answers[0] < 0.9 < answers[1]


def test_classes_are_those_of_predict(model, files):
    loaded = gvit.load_model(model)
    guesses = gvit.predict(loaded, load_images(files[:-1], loaded), 1)
    columns = PredictBatches(model)({"path": files})
    assert columns["class_name"].tolist() == [*(guess[0].class_name for guess in guesses), ""]
    assert columns["probability"][:-1] == pytest.approx([guess[0].probability for guess in guesses])
    with pytest.raises(InputError, match="an encoder alone"):
        PredictBatches("gvit_tiny.photos")
    with pytest.raises(InputError, match="must be at least 1"):
        EncodeBatches(model, num_gaussians=0)


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'gvit[ray]'"
)
def test_two_workers_of_ray_make_the_same_set(model, files, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    # a CPU for each worker, and some to read: it only counts them
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}},
    )
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        images = ray.data.read_binary_files(files, include_paths=True)
        rows = images.map_batches(
            EncodeBatches,
            fn_constructor_kwargs={"model": model},
            compute=ray.data.ActorPoolStrategy(size=2),
            batch_size=3,
        ).take_all()
        check([(row["name"], row["raw"], row["error"]) for row in rows], model, files)
    finally:
        ray.shutdown()


@pytest.mark.skipif(
    importlib.util.find_spec("pyspark") is None, reason="pyspark is not installed: pip install 'gvit[spark]'"
)
def test_two_workers_of_spark_make_the_same_set(model, files, monkeypatch):
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", PATHS)
    from pyspark.errors import PySparkRuntimeError
    from pyspark.sql import SparkSession

    try:
        spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    except PySparkRuntimeError as error:
        pytest.skip(f"Spark does not start, it needs Java: {error}")
    try:
        images = spark.read.format("binaryFile").load(os.path.dirname(files[0])).repartition(2)
        encode, predict = EncodeBatches(model), PredictBatches(model)
        rows = images.mapInPandas(encode.pandas, encode.schema).collect()
        check([(row["name"], row["raw"], row["error"]) for row in rows], model, files)
        assert [row["raw"] for row in rows if row["error"]] == [None]
        classes = images.mapInPandas(predict.pandas, predict.schema).collect()
        here = PredictBatches(model)({"path": files})
        found = {os.path.basename(row["name"]): row["class_name"] or "" for row in classes}
        assert found == dict(zip(map(os.path.basename, files), here["class_name"].tolist(), strict=True))
    finally:
        spark.stop()
