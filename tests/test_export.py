"""What is exported runs without gvit's operators, for any batch, with the model's own results."""

import copy
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import onnx
import onnxruntime
import pytest
import torch

import gvit
from gvit.cli import main
from gvit.errors import InputError
from gvit.export import METADATA, export

TINY = {"num_classes": 3, "depth": 1, "num_gaussians": 6, "embed_dim": 12, "num_heads": 2}

HOUSE = str(Path(gvit.__file__).parent).encode()


def awake(model):
    head = model.encoder.head
    torch.nn.init.normal_((head if isinstance(head, torch.nn.Linear) else head[-1]).weight, std=0.02)
    return model.eval()


@pytest.fixture(scope="module")
def denoising():
    torch.manual_seed(0)
    model = gvit.create_model("gvit_tiny_denoising", encoder_depth=1, encoder_dim=12, encoder_heads=2, **TINY)
    return awake(model)


def test_a_refining_model_as_a_program_of_any_batch(tmp_path):
    """One look: the derivative of the renderer is in the graph."""
    torch.manual_seed(0)
    model = awake(
        gvit.create_model("gvit_tiny", looks=1, encoder_dim=12, img_size=16, **TINY | {"num_gaussians": 4})
    )
    done = export(model, tmp_path / "model.pt2")
    extra = {METADATA: ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    for batch in (7, 1):
        images = torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(program.module()(images), model(images), rtol=1e-3, atol=1e-4)
    assert not [n for n in program.graph.nodes if "gvit" in str(n.target)]
    assert json.loads(extra[METADATA]) == json.loads(json.dumps(done.metadata))
    with zipfile.ZipFile(done.path) as file:  # no paths of this machine
        assert not [name for name in file.namelist() if HOUSE in file.read(name)]


@pytest.mark.parametrize("part", ["model", "picture"])
def test_onnx_of_any_batch(denoising, part, tmp_path):
    done = export(denoising, tmp_path / "model.onnx", part)
    assert done.difference < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for batch in (3, 1):
        images = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        (found,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            gaussians = denoising.encode(images)
            wanted = denoising(images) if part == "model" else gvit.render(gaussians, 32, 32)
        torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=0, atol=1e-4)
    (prop,) = [p for p in onnx.load(tmp_path / "model.onnx").metadata_props if p.key == METADATA]
    told = json.loads(prop.value)
    assert told["input"] == {"name": "images", "shape": ["batch", 3, 32, 32]}
    assert told["preprocessing"]["mean"] == [0, 0, 0]
    assert [told["scale_factor"], told["nominal_count"]] == [denoising.encoder.scale_factor, 6]


def test_what_is_wrong_is_refused_and_nothing_written(tmp_path, monkeypatch, capsys):
    patches = gvit.create_model("vit_tiny_patch8", depth=1)
    with pytest.raises(InputError, match="no encoder"):
        export(patches, tmp_path / "a.pt2", "picture")
    with pytest.raises(InputError, match="reads no Gaussians"):
        export(patches, tmp_path / "a.pt2", "classifier")
    with pytest.raises(InputError, match="must be onnx or pt2, got 'txt'"):
        export(patches, tmp_path / "a.txt")
    with pytest.raises(InputError, match="precision='int8' needs format='onnx', got pt2"):
        export(patches, tmp_path / "a.pt2", precision="int8")
    with pytest.raises(InputError, match=r"a\.pt2: format='onnx' is not what this name ends in"):
        export(patches, tmp_path / "a.pt2", format="onnx")
    with pytest.raises(InputError, match=r"a\.png: format='onnx' is not what this name ends in"):
        export(patches, tmp_path / "a.png", format="onnx")
    with pytest.raises(InputError, match="a folder; name the file"):
        export(patches, tmp_path, format="pt2")
    monkeypatch.setattr("gvit.export.TOLERANCE", -1.0)
    with pytest.raises(InputError, match="off by"):
        export(patches, tmp_path / "a.pt2")
    monkeypatch.chdir(tmp_path)
    assert main(["export", "gvit_tiny.photos", "--format", "pt2"]) == 2
    assert "--part must be encoder or picture" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_whose_program_is_off_is_not_written(denoising, tmp_path, monkeypatch):
    """Of a pt2 file it is the program in the file that is looked at."""
    load, runner = torch.export.load, gvit.export._onnx_runner

    def off(run):
        return lambda inputs: run(inputs) + 1e-3

    monkeypatch.setattr(
        torch.export, "load", lambda file: SimpleNamespace(module=lambda: off(load(file).module()))
    )
    monkeypatch.setattr("gvit.export._onnx_runner", lambda content: off(runner(content)))
    for name in ("a.pt2", "a.onnx"):
        with pytest.raises(InputError, match=r"is off by 1\.0e-03, not written"):
            export(denoising, tmp_path / name, "classifier")
    assert not list(tmp_path.iterdir())


def test_the_bounds_of_raw_gaussians_are_told(tmp_path):
    """Above all where they are the input; those of an encoder's in ``test_onnx_of_any_batch``."""
    bare = gvit.create_model("gaussian_vit_tiny", scale_factor=1.5, **TINY)
    patches = gvit.create_model("vit_tiny_patch8", depth=1)
    for model, *bounds in ((bare, 1.5, 6), (patches, None, None)):
        told = export(model, tmp_path / "a.pt2").metadata
        assert [told["scale_factor"], told["nominal_count"]] == bounds


@pytest.mark.usefixtures("recorded_once")
@pytest.mark.parametrize("name", ["a.onnx", "a.pt2", "int8.onnx"])
def test_an_exported_file_is_replaced_and_somebody_elses_is_not(denoising, tmp_path, name):
    file, precision = tmp_path / name, "int8" if name.startswith("int8") else "float32"
    for _ in range(2):
        export(denoising, file, "classifier", precision=precision)
    for theirs in (b"mine", b""):
        file.write_bytes(theirs)
        with pytest.raises(InputError, match=f"{name} is there and was not written by gvit; .* another path"):
            export(denoising, file, "classifier", precision=precision)
        assert file.read_bytes() == theirs


def test_the_command_line_says_what_it_has_verified(denoising, tmp_path, monkeypatch, capsys):
    gvit.save_model(denoising, tmp_path / "mine.safetensors")
    monkeypatch.chdir(tmp_path)
    for given, written in (
        (("--format", "pt2"), "mine-classifier.pt2"),
        (("--out", "there/mine.pt2"), "there/mine.pt2"),  # what the name ends in
    ):
        assert main(["export", "mine.safetensors", "--part", "classifier", *given]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(
            f"{written}  gaussians batch x 6 x 9 -> logits\nverified with a batch of 5: "
        )
        assert zipfile.is_zipfile(written)


@pytest.fixture(scope="module")
def recordings():
    """By part and kind of file."""
    return {}


@pytest.fixture
def recorded_once(recordings, monkeypatch):
    """A recording takes seconds, and one in float32 is what both lower precisions are made of."""
    record = gvit.export._record

    def recorded(network, example, kind, metadata):
        key = metadata["part"], kind
        if key not in recordings:
            recordings[key] = record(network, example, kind, metadata)
        return recordings[key]

    monkeypatch.setattr("gvit.export._record", recorded)


@pytest.mark.usefixtures("recorded_once")
def test_float16_rounds_the_weights_of_linear_layers_and_nothing_else(denoising, tmp_path):
    done = export(denoising, tmp_path / "half.onnx", "classifier", precision="float16")
    rounded = copy.deepcopy(denoising)
    for layer in rounded.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data = layer.weight.half().float()
    raw = torch.randn(3, 6, 9, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(done.path)
    (found,) = session.run(None, {"gaussians": raw.numpy()})
    wanted = rounded.classify(rounded.encoder.gaussians(raw))
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=0, atol=2e-5)
    weights = [t for t in onnx.load(done.path).graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    assert len(weights) == sum(isinstance(layer, torch.nn.Linear) for layer in rounded.classifier.modules())


@pytest.mark.usefixtures("recorded_once")
def test_int8_of_every_linear_layer(denoising, tmp_path, monkeypatch, capsys):
    gvit.save_model(denoising, tmp_path / "mine.safetensors")
    monkeypatch.chdir(tmp_path)
    assert main(["export", "mine.safetensors", "--part", "classifier", "--precision", "int8"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("mine-classifier-int8.onnx  gaussians batch x 6 x 9 -> logits")
    assert second.startswith("in float32 verified; in int8, with a batch of 5: off by ")
    content = Path("mine-classifier-int8.onnx").read_bytes()
    assert HOUSE not in content
    graph = onnx.load_from_string(content).graph
    layers = sum(isinstance(layer, torch.nn.Linear) for layer in denoising.classifier.modules())
    assert sum(node.op_type == "MatMulInteger" for node in graph.node) == layers
