"""The promises of README and docs that a test can hold them to."""

import importlib
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image

import gvit
from gvit.cli import main
from gvit.cli.parsing import parse
from gvit.data.sources import SOURCES
from gvit.errors import InputError
from gvit.models import registry
from gvit.models.complexity import model_complexity
from gvit.models.tokens import TOKENIZERS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    flags = ["--epochs", "1", "--num-gaussians", "8", "--looks", "2"]
    assert main(["train", *flags, "--out", str(folder / "runs" / "digits")]) == 0
    Image.fromarray(np.full((20, 30), 128, np.uint8)).save(folder / "digit.png")
    (folder / "scans").mkdir()
    (folder / "more").mkdir()
    for place in ("scans", "more"):
        shutil.copy(folder / "digit.png", folder / place / "a.png")
    return folder


def test_the_python_example_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (example,) = blocks("python")
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    model, gaussians = names["model"], names["gaussians"]
    # what was edited and masked is drawn, and read, as another image
    for changed in (names["edited"], names["masked"]):
        assert not torch.equal(gvit.render(changed, 32, 32), gvit.render(gaussians, 32, 32))
        assert not torch.equal(model.classify(changed), model.classify(gaussians))
    torch.testing.assert_close(names["edited"].colors, 1 - gaussians.colors)
    assert capsys.readouterr().out.count("torch.Size([1, 3, 256, 256])") == 3


def test_the_commands_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    commands = [
        shlex.split(line, comments=True)
        for block in blocks("bash", (ROOT / "docs" / "command_line.md").read_text())
        for line in block.splitlines()
    ]
    assert {command[1] for command in commands} == {
        "predict",
        "encode",
        "evaluate",
        "explain",
        "faithfulness",
        "report",
        "finetune",
        "render",
        "train",
        "models",
        "fit",
        "data",
        "reproduce",
    }
    for command in commands:
        assert command[0] == "gvit"
        if command[1] == "reproduce":
            assert main([*command[1:], "--epochs", "0.2", "--dry-run"]) == 0, command
        elif command[1] not in ("train", "finetune"):
            assert main(command[1:]) == 0, command
        elif "--resume" not in command:
            quick = ["--epochs", "0.2", "--num-gaussians", "4", "--looks", "1"]
            assert main([*command[1:], *quick]) == 0, command
    assert main(["train", "--resume", "runs/short"]) == 0
    assert main(["train", "--resume", "runs/short", "--epochs", "0.3"]) == 0


def test_the_commands_without_training_run(folder, tmp_path, monkeypatch, capsys):
    """In the order of the README, in a folder that holds nothing but images."""
    shutil.copy(folder / "digit.png", tmp_path / "digit.png")
    shutil.copytree(folder / "scans", tmp_path / "scans")
    Image.fromarray(np.full((48, 64, 3), 128, np.uint8)).save(tmp_path / "photo.jpg")
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(5):
            shutil.copy(tmp_path / "photo.jpg", tmp_path / "photos" / name / f"{i}.jpg")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "pretrained.md").read_text()
    lines = [line for text in (README, page) for block in blocks("bash", text) for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("gvit")]
    assert [command[1] for command in commands] == ["predict", "encode", "train", "predict", "models"]
    shipped = gvit.list_models(pretrained=True)
    for command in commands:
        if command[1] == "encode" and "gvit_tiny.photos" not in shipped:
            continue
        short = ["--epochs", "1", "--num-gaussians", "4"] if command[1] == "train" else []
        assert main([*command[1:], *short]) == 0, command
    assert "gvit_tiny.digits" in capsys.readouterr().out


def test_the_examples_of_pretrained_weights_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names, saving, pushing, general = blocks("python", (ROOT / "docs" / "pretrained.md").read_text())
    found: dict = {}
    exec(compile(names, "pretrained.md", "exec"), found)
    assert "gvit_tiny.digits" in capsys.readouterr().out
    assert (found["model"].num_classes, found["fresh"].num_classes) == (4, 10)
    exec(compile(saving, "pretrained.md", "exec"), found)
    hub = mock.Mock()
    hub.hf_hub_download.side_effect = EntryNotFoundError.__new__(EntryNotFoundError)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda **_: hub)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_token")
    (tmp_path / "runs" / "photos").mkdir(parents=True)
    measures = {"num_images": 8, "top1": 0.5, "top5": None, "psnr": 30.0, "ssim": 0.9}
    (tmp_path / "runs" / "photos" / "evaluation.json").write_text(
        json.dumps(measures | {"class_names": ["a", "b", "c", "d"]})
    )
    exec(compile(pushing, "pretrained.md", "exec"), found)
    assert hub.upload_folder.call_args.kwargs["repo_id"] == "OWNER/NAME"
    if "gvit_tiny.photos" in gvit.list_models(pretrained=True):
        found["images"] = torch.rand(1, 3, 48, 64)
        exec(compile(general, "pretrained.md", "exec"), found)
        assert len(found["gaussians"].raw[0]) == 1000


def test_the_tables_are_those_of_the_results():
    rows = [line for line in README.splitlines() if line.startswith(("| patch", "| GViT"))]
    photographs, small, digits = rows[:4], rows[4:8], rows[8:]
    assert len(digits) == 4
    results, experiments = ((ROOT / "docs" / page).read_text() for page in ("results.md", "experiments.md"))
    assert all(row in results for row in digits)
    for row in photographs:
        name, accuracies, *_ = row.strip("| ").split(" | ")
        assert any(line.startswith(f"| {name}") and accuracies in line for line in experiments.splitlines())
    for row in small:
        name, accuracy, psnr, *_ = row.strip("| ").split(" | ")
        words = name.split(", ")[:2] if name.startswith("GViT") else ["patch ViT"]
        begin = f"| {', '.join(words).removesuffix(' as in the paper')} | 3 | {accuracy} | {psnr}"
        assert any(line.startswith(begin) for line in results.splitlines()), begin
    large, little = {"img_size": 128, "num_classes": 10}, {"img_size": 32, "num_classes": 10}
    ours = model_complexity("gvit_tiny", num_gaussians=128, looks=12, **large)
    on_small = model_complexity("gvit_tiny", num_gaussians=64, looks=8, **little)
    costs = [model_complexity("vit_tiny_patch8", **large), *3 * [ours]]
    costs += [model_complexity("vit_tiny_patch8", **little), *3 * [on_small]]
    for row, found in zip([*photographs, *small], costs, strict=True):
        parameters = found.encoder_parameters + found.classifier_parameters
        macs = 1e3 * (found.encoder_gmacs + found.classifier_gmacs)
        assert row.endswith(f"| {parameters / 1e3:.0f} k | {macs:.3g} M |")


def test_the_picture_is_there_and_small():
    (name,) = re.findall(r"!\[[^\]]+\]\(([^)]+\.png)\)", README)
    assert 10_000 < (ROOT / name).stat().st_size < 500_000


def anchors(page: Path) -> set[str]:
    """What a link to a heading ends in, on GitHub and on the site, which has them down to the third level."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#{1,3} (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        if not target.startswith("http"):
            other = page.parent / target if target else page
            assert other.exists(), target
            assert not anchor or anchor in anchors(other), f"{target}#{anchor}"


def test_every_page_is_reached_from_the_readme():
    linked = set(re.findall(r"\]\(docs/([^)#]+\.md)\)", README))
    pages = {
        page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")
    }
    assert linked == {page for page in pages if not page.startswith("reference/")}  # which the site has


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_text_is_wrapped(page):
    code = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        code ^= line.startswith("```")
        # tables, indented formulas and commands stay whole
        if not code and not line.startswith(("|", "    ")) and not re.fullmatch(r"`[^`]+`\W?", line):
            text = re.sub(r"\]\([^)]*\)", "]", line)
            assert len(text) <= 110, f"{page.name}, line {number}"


class Parsed(Exception):
    """A command line was read."""


def documented_commands() -> Iterator[tuple[str, list[str]]]:
    """Every call of gvit in the blocks of all pages: the page's name, and its words."""
    for page in PAGES:
        for block in re.findall(r"```(?:bash|console)\n(.*?)```", page.read_text(), flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                for part in " ".join(map(shlex.quote, words)).split(" '&&' "):
                    call = shlex.split(part)
                    if "gvit" in call[:8]:
                        yield page.name, call[call.index("gvit") + 1 :]


def test_every_documented_command_can_be_read(monkeypatch):
    """Those that need hours or the reader's files, too: each as far as its options."""

    def parsed(read):
        def reading(*args, **kwargs):
            read(*args, **kwargs)
            raise Parsed

        return reading

    count = 0
    for page, (verb, *args) in documented_commands():
        module = importlib.import_module(f"gvit.cli.{verb}")
        if verb == "finetune":
            args[0] = "digits"  # what can be set is read from the run
        if module.parse is parse:
            monkeypatch.setattr(module, "parse", parsed(parse))
        try:
            with pytest.raises(Parsed):
                module.run(args)
        except InputError as error:
            pytest.fail(f"{page}: gvit {verb} {' '.join(args)}: {error}")
        count += 1
    assert count > 100


def test_the_example_of_analysis_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (example,) = blocks("python", (ROOT / "docs" / "analysis.md").read_text())
    names: dict = {}
    exec(compile(example, "analysis.md", "exec"), names)
    assert names["heat"].shape == (1, 16, 16)
    assert capsys.readouterr().out.startswith("rank correlation ")
    assert (folder / "explained.png").stat().st_size > 5000
    assert (folder / "regimes.png").stat().st_size > 5000


def test_the_example_of_explaining_runs(folder, monkeypatch, capsys):
    page = (ROOT / "docs" / "explain.md").read_text()
    monkeypatch.chdir(folder)
    (example,) = blocks("python", page)
    names: dict = {}
    exec(compile(example, "explain.md", "exec"), names)
    assert names["heat"].shape == (1, 32, 32)
    assert (folder / "seven.png").stat().st_size > 5000
    methods = capsys.readouterr().out.splitlines()[-1].split(", ")
    assert methods == re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert (ROOT / "docs" / "explain.png").stat().st_size < 150_000


def test_the_example_of_faithfulness_runs(capsys):
    (example,) = blocks("python", (ROOT / "docs" / "faithfulness.md").read_text())
    exec(compile(example, "faithfulness.md", "exec"), {})
    assert "| det " in capsys.readouterr().out


def test_the_example_of_a_report_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python", (ROOT / "docs" / "report.md").read_text())
    exec(compile(example, "report.md", "exec"), {})
    assert capsys.readouterr().out == "report.html 1 []\n"


def test_the_example_of_a_source_runs(capsys, monkeypatch):
    monkeypatch.setattr("gvit.data.sources.SOURCES", dict(SOURCES))
    (example,) = blocks("python", (ROOT / "docs" / "data.md").read_text())
    exec(compile(example, "data.md", "exec"), {})
    assert capsys.readouterr().out == "80 20\n"


def test_the_example_of_training_on_a_folder_runs(tmp_path, capsys):
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(5):
            picture = np.full((40, 60, 3), 40 * i + 20 * number, np.uint8)
            Image.fromarray(picture).save(tmp_path / "photos" / name / f"{i}.jpg")
    any_number, training, stopping, _ = blocks("python", (ROOT / "docs" / "training.md").read_text())
    names = {"photos": tmp_path / "photos", "out": tmp_path / "run", "hours": 0}
    exec(compile(training, "training.md", "exec"), names)
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert float(capsys.readouterr().out.split()[0]) in (0.0, 0.5, 1.0)
    exec(compile(stopping, "training.md", "exec"), names)
    stopped, top1 = capsys.readouterr().out.splitlines()
    assert stopped == "step 1 is saved"
    assert float(top1) == names["result"].top1  # that of the run that was not interrupted
    assert (tmp_path / "run" / "evaluation.json").exists()
    any_number = any_number.replace("runs/photos", str(tmp_path / "run"))
    names["photograph"] = torch.rand(1, 3, 64, 96)
    exec(compile(any_number, "training.md", "exec"), names)
    assert len(names["gaussians"]) == 2000


def test_the_examples_of_a_trained_model_run(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("3", "7"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        shutil.copy(folder / "digit.png", tmp_path / "photos" / name)
    names = {"run": folder / "runs" / "digits", "photos": tmp_path / "photos"}
    for example in blocks("python", (ROOT / "docs" / "trained.md").read_text()):
        exec(compile(example, "trained.md", "exec"), names)
    assert len(list((tmp_path / "measured").iterdir())) == 4
    assert len(names["fitted"].gaussians) == 50
    assert "mistakes" in capsys.readouterr().out


def test_the_example_of_a_tokenizer_from_outside_runs(monkeypatch, capsys):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    (example,) = blocks("python", (ROOT / "docs" / "layout.md").read_text())
    try:
        exec(compile(example, "layout.md", "exec"), {"__name__": "outside"})
        assert model_complexity("vit_rows").tokens == 32  # what `gvit models` prints
    finally:
        TOKENIZERS.pop("rows", None)
    assert capsys.readouterr().out == "torch.Size([2, 10])\n"


def test_the_page_on_reproduction_names_every_target():
    from gvit.reproduction.reproduce import TARGETS

    page = (ROOT / "docs" / "reproduce.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)) == set(TARGETS)


def test_the_example_of_frozen_gaussians_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    digits = SOURCES["digits"]
    monkeypatch.setitem(SOURCES, "digits", lambda *of: digits(*of).take(range(50)))
    *_, example = blocks("python", (ROOT / "docs" / "training.md").read_text())
    exec(compile(example, "training.md", "exec"), {})
    assert len(list((folder / "frozen").rglob("*.safetensors"))) == 100
    assert main(["train", "gaussians", "--data-dir", "frozen", "--epochs", "1"]) == 0


def test_the_example_of_fitting_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for example in blocks("python", (ROOT / "docs" / "fitting.md").read_text()):
        exec(compile(example, "fitting.md", "exec"), {})
    assert (tmp_path / "astronaut.safetensors").stat().st_size > 10 * (
        tmp_path / "small.safetensors"
    ).stat().st_size
    training, *_ = blocks("python", (ROOT / "docs" / "renderer.md").read_text())
    names: dict = {}
    exec(compile(training, "renderer.md", "exec"), names)
    assert names["loss"].item() < 0.3
    drawn = [float(number) for number in re.findall(r"([\d.]+) dB", capsys.readouterr().out)]
    assert len(drawn) == 2
    assert all(20 < quality < 40 for quality in drawn)


def test_the_example_of_the_studio_runs(capsys):
    (example,) = blocks("python", (ROOT / "docs" / "studio.md").read_text())
    exec(compile(example, "studio.md", "exec"), {})
    assert re.findall(r"\d+", capsys.readouterr().out) == ["8", "9"]


def test_the_example_of_timm_runs(capsys):
    (example,) = blocks("python", (ROOT / "docs" / "timm.md").read_text())
    names: dict = {}
    exec(compile(example, "timm.md", "exec"), names)
    assert names["config"]["input_size"] == (3, 32, 32)
    assert capsys.readouterr().out == "[(1, 32, 96), (1, 32, 96)]\n"


def test_the_example_of_export_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python", (ROOT / "docs" / "export.md").read_text())
    exec(compile(example, "export.md", "exec"), {})
    assert capsys.readouterr().out == "True (3, 10)\n"
