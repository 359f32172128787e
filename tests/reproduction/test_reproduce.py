"""``gvit reproduce`` as a person meets it."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from forked import Forked
from gvit import create_model, save_model
from gvit.cli import main
from gvit.errors import InputError, Note, for_command_line, option
from gvit.recipes import RECIPES, load_recipe
from gvit.reproduction import reproduce as module
from gvit.reproduction.execute import unfinished
from gvit.reproduction.jobs import Machine, Training, Trunk
from gvit.reproduction.page import read_material
from gvit.reproduction.reproduce import TARGETS, check, plan, try_out
from gvit.reproduction.study import Study, change
from gvit.training.dry_run import DryRun, PhaseCost
from small_tables import small_tables

QUICK = ("--recipe", "debug", "--full", "--seeds", "2", "--jobs", "2")
ROWS = ("gamma = 0.1", "no guidance", "gamma = 0.025")
THREE = (*QUICK, "--rows", *ROWS)


def reproduce(folder, *args: str) -> int:
    return main(["reproduce", *args, "--out", str(folder / "results"), "--runs", str(folder / "runs")])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduce")
    with small_tables():
        assert reproduce(folder, "table1b", *THREE) == 0
    return folder


def test_a_table_is_written_with_all_that_stands_behind_it(finished):
    name = finished / "results" / "debug" / "table1b"
    content = json.loads(name.with_suffix(".json").read_text())
    assert len(content["rows"]) == 6
    for row in content["rows"]:
        assert row["settings"]["seed"] == row["seed"]
        assert row["settings"]["schedule"]["gamma"] == (row["x"] or 0.1)
        assert {"commit", "cpu", "versions"} <= row["provenance"].keys()
    with name.with_suffix(".csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["top1"]) for line in lines] == [row["top1"] for row in content["rows"]]
    assert name.with_suffix(".png").stat().st_size > 1000
    assert str(finished) not in name.with_suffix(".json").read_text()


def test_the_page_shows_the_numbers_of_the_files_and_judges_the_claims(finished):
    page = (finished / "results.md").read_text().replace("\n", " ")
    content = json.loads((finished / "results" / "debug" / "table1b.json").read_text())
    best = [100 * row["top1"] for row in content["rows"] if row["label"] == "gamma = 0.1"]
    assert f"| gamma = 0.1 | 2 | {sum(best) / 2:.2f} ±" in page
    rows = "--rows 'gamma = 0.1' 'no guidance' 'gamma = 0.025'"
    assert f"`gvit reproduce table1b --recipe debug --seeds 2 --full {rows}`" in page
    assert len(re.findall(r"\| (agrees|disagrees|too small to tell) \|", page)) == len(content["claims"])
    assert "(results/debug/table1b.png)" in page


def test_started_again_it_does_nothing_twice(finished, capsys):
    runs = {file: file.stat().st_mtime_ns for file in (finished / "runs").rglob("*") if file.is_file()}
    with small_tables():
        assert reproduce(finished, "table1b", *THREE) == 0
    assert "6 runs, 6 of them done; 0 jobs left" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in runs} == runs


def test_whose_result_is_replaced_is_told_before(finished, tmp_path, capsys):
    said, out = [], tmp_path / "[old]"
    for rows in (ROWS, ROWS, ROWS[:2], ROWS[:2]):
        runs = ["--rows", *rows, "--runs", str(finished / "runs"), "--out", str(out)]
        with small_tables():
            assert main(["reproduce", "table1b", *QUICK, *runs]) == 0
        said.append(" ".join(capsys.readouterr().err.split()))
        if len(said) == 3:  # of other images
            file = out / "debug" / "table1b.json"
            content = json.loads(file.read_text())
            file.write_text(json.dumps(content | {"rows": [r | {"data": "0"} for r in content["rows"]]}))
    assert [f"it replaces the result in {out}" in text for text in said] == [False, False, True, True]
    assert "--full --rows 'gamma = 0.1' 'no guidance' 'gamma = 0.025'" in said[2]


def test_a_table_is_printed_in_every_encoding(finished, tmp_path, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    runs = ["--runs", str(finished / "runs"), "--out", str(tmp_path / "out")]
    with small_tables():
        assert main(["reproduce", "table1b", *THREE, *runs]) == 0
    out.flush()
    assert b"| gamma = 0.1 | 2 | " in out.buffer.getvalue()


def test_what_is_to_be_said_of_trainings_is_said_once(tmp_path):
    study = Study(load_recipe("debug"), (0, 1), tmp_path)
    jobs = unfinished(
        [study.train(config, seed) for config in (study.guided, study.queries) for seed in (0, 1)]
    )
    (note,) = check(jobs, Machine(graphs=True))
    assert for_command_line(note).startswith("--graphs has no effect")
    with pytest.raises(InputError, match=r"7 equal parts \(accumulate=7, processes: 1\)"):
        check(jobs, Machine(accumulate=7))


def test_a_classifier_that_would_begin_anew_guides_nothing(tmp_path):
    config = load_recipe("debug")
    for depth, classes in ((2, 10), (3, 7)):
        sizes = {"num_gaussians": config.model.num_gaussians, "depth": depth, "num_classes": classes}
        model = create_model(config.model.model, **sizes)
        save_model(model, tmp_path / f"{depth}.safetensors")
    with pytest.raises(InputError, match="its classifier does not fit the recipe's"):
        plan("guidance", "debug", 1, tmp_path, init=str(tmp_path / "2.safetensors"))
    assert plan("guidance", "debug", 1, tmp_path, init=str(tmp_path / "3.safetensors")).rows


def test_the_plan_is_told_beforehand_and_writes_nothing(tmp_path, capsys):
    assert reproduce(tmp_path, "table1b", *QUICK, "--dry-run") == 0
    printed = capsys.readouterr()
    assert re.search(r"10 runs, 0 of them done; 12 jobs left, 2 at a time, about \d+:\d\d", printed.err)
    assert len(printed.out.splitlines()) == 12
    assert not list(tmp_path.iterdir())


def test_some_rows_of_a_table_keep_its_order_and_the_claims_about_them(tmp_path):
    whole = plan("guidance", "digits", 2, tmp_path)
    labels = ["no conflict, per image", "guided, the paper's", "no guidance"]
    some = plan("guidance", "digits", 2, tmp_path, rows=labels)
    assert some.rows == [row for row in whole.rows if row.label in labels]
    assert [row.label for row in some.rows[::2]] == [
        "no guidance",
        "guided, the paper's",
        "no conflict, per image",
    ]
    assert some.claims == [claim for claim in whole.claims if {claim.better, claim.worse} <= {*labels}]
    assert 0 < len(some.claims) < len(whole.claims)
    assert whole.against == some.against == "no guidance"
    assert plan("guidance", "digits", 2, tmp_path, rows=["added"]).against == ""


def test_a_plan_tells_what_cannot_be_tried_before_its_data_are_made(tmp_path, capsys):
    assert reproduce(tmp_path, "leakage", *QUICK, "--dry-run") == 0
    printed = capsys.readouterr()
    assert re.search(r"about \d+:\d\d and those marked \?", printed.err)
    tried = {line.split()[1].partition("-")[0]: line.split()[0] for line in printed.out.splitlines()}
    assert re.fullmatch(r"\d+:\d\d", tried.pop("gvit_tiny_denoising"))
    assert tried == dict.fromkeys(("fits", "gaussians", "gaussian_vit_tiny", "evaluation"), "?")
    assert not list(tmp_path.iterdir())


def test_every_kind_of_training_is_tried_once_and_common_beginnings_count_once(tmp_path, monkeypatch):
    tried = []

    def fake(setup) -> DryRun:
        tried.append(setup.config)
        phases = [
            PhaseCost(p, 5, {}, s)
            for s, p in enumerate(("reconstruct", "perceptual", "classify", "guide"), 1)
        ]
        return DryRun(phases, evaluations=2, evaluation_seconds=10, peak_memory=None)

    monkeypatch.setattr(module, "dry_run", fake)
    study = Study(load_recipe("debug"), (0, 1), tmp_path)
    weak = change(study.guided, schedule={"gamma": 0.01})
    wanted = [study.train(config, seed) for config in (study.guided, weak, study.queries) for seed in (0, 1)]
    costs = try_out(unfinished(wanted), Machine(), 1)
    assert len(tried) == 2  # neither gamma nor the seed makes a difference
    # phases of 5 steps of 1, 2, 3 and 4 s, and 20 s of evaluations
    expected = {Trunk: 5 + 10 + 15 + 15, Training: 20 + 5}
    found = {type(job): cost for job, cost in costs.items() if job.config.model.encoder is None}
    assert found == expected
    assert {cost for job, cost in costs.items() if job.config.model.encoder} == {70}


def test_unusable_data_to_transfer_to_show_before_anything_is_trained(tmp_path):
    (tmp_path / "data" / "pets").mkdir(parents=True)
    base = change(load_recipe("debug"), data={"dataset": "digits_0_4"})
    target = TARGETS["table2"](Study(base, (0,), tmp_path / "runs", tmp_path / "data"))
    with pytest.raises(InputError, match="pets"):
        check(unfinished(row.job for row in target.rows), Machine())


def test_a_recipe_whose_model_has_nothing_to_be_compared_with_is_refused(tmp_path, monkeypatch):
    plain = change(load_recipe("debug"), model={"model": "vit_tiny_patch8"})
    monkeypatch.setitem(RECIPES, "plain", lambda: plain)
    with pytest.raises(InputError, match="vit_tiny_patch8, which is registered without patches and frozen"):
        plan("comparison", "plain", 1, tmp_path)


def test_a_recipe_without_the_phases_that_differ_is_refused(tmp_path, monkeypatch):
    for what in ("guidance", "comparison", "table1a"):
        with pytest.raises(InputError, match="recipe photos never classifies"):
            plan(what, "photos", 1, tmp_path)
    unguided = change(load_recipe("debug"), schedule={"guide_epochs": 0.0})
    monkeypatch.setitem(RECIPES, "unguided", lambda: unguided)
    with pytest.raises(InputError, match="recipe unguided has no guided phase"):
        plan("guidance", "unguided", 1, tmp_path)
    assert plan("table1a", "unguided", 1, tmp_path).rows


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["table1"], "unknown target 'table1'; nearest: table1"),
        (["table1a", "--recipe", "digit"], "unknown recipe 'digit'; nearest: digits"),
        (["table1a", "--recipe", "transfer_pets_s"], "starts from another run"),
        (["table1a", "--recipe", "gaussians"], "frozen Gaussians, which nothing can guide"),
        (["table1a", "--full", "--epochs", "3"], "contradict each other"),
        (["table1a", "--recipe", "imagenette"], "needs --data-dir FOLDER"),
        (["table1a", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["table1a", "--epochs", "0"], "--epochs must be above 0 and finite, got 0"),
        (["table1a", "--epochs", "0.001"], "the phases are shorter than one step; raise --epochs"),
        (["table1a", "--epochs", "inf"], "--epochs must be above 0 and finite, got inf"),
        (["table1a", "--eval-every", "0"], "--eval-every must be above 0 and finite, got 0"),
        (["table1a", "--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["table2", "--transfer-dir", "nowhere"], "--transfer-dir nowhere: no such folder"),
        (["table1b", "--rows"], "--rows needs a value"),
        (
            ["comparison", "--rows", "patch ViT", "no"],
            "comparison has no row 'no'; its rows are 'patch ViT', 'GViT, ",
        ),
        (["comparison", "--init", "gvit_tiny.digits"], "leave out --init, which only guidance has"),
        (["guidance", "--init", "gvit_tiny.nothing"], "unknown pretrained model 'gvit_tiny.nothing'"),
        (
            ["guidance", "--recipe", "digits", "--init", "gvit_tiny.photos"],
            "its classifier has learned nothing",
        ),
        (["figure4", "--rows", "No guidance"], "figure4 is a picture of all of its rows; leave out --rows"),
        (["table1a", "--accumulate", "0"], "--accumulate must be at least 1, got 0"),
        (
            ["table1a", "--accumulate", "7"],
            "7 equal parts (--accumulate 7, processes: 1); choose another --accumulate",
        ),
        (["table1a", "--transfer-dir", "."], "table1a transfers nothing; leave out --transfer-dir"),
        (["table2", "--transfer-dir", "."], "digits are transferred to digits; leave out --transfer-dir"),
        (
            ["table2", "--recipe", "imagenet1k", "--transfer-dir", "src"],
            "src: has none of the folders cifar10, ",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(args, message, tmp_path, capsys):
    assert reproduce(tmp_path, *args) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("gvit: error: ")
    assert message in printed
    assert printed.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"seeds": -1}, "seeds must be at least 1, got -1"),
        ({"rows": []}, "rows needs a value"),
    ],
)
def test_a_plan_without_rows_is_refused(given, message, tmp_path):
    with pytest.raises(InputError, match=message):
        plan("table1b", "debug", **{"seeds": 1, "store": str(tmp_path), **given})


def test_from_python_arguments_are_named_and_brackets_are_no_markup(tmp_path):
    console = Console(file=io.StringIO(), width=300, force_terminal=True)
    target = plan("table1b", "debug", 1, str(tmp_path / "a[/b]"), full=True, rows=ROWS[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "check", lambda *_: [Note(f"{option('graphs')} needs 'gvit[gpu]' :x: [/b]")])
        patch.setattr(module, "try_out", lambda *_: {})
        told = {"machine": Machine(), "parallel": 1, "dry_run": True, "console": console}
        module.reproduce(target, "debug", "", tmp_path / "results", **told)
        assert console.file.getvalue().startswith("graphs needs 'gvit[gpu]' :x: [/b]\n")
        module.reproduce(target, "debug", "", tmp_path / "results", **told, worded=for_command_line)
        assert "\n--graphs needs" in console.file.getvalue()


def test_a_script_that_reads_itself_again_is_told_where_to_call(tmp_path):
    """Its jobs' processes import it, and come to the call, too, where nothing guards it."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from rich.console import Console\n"
        "from gvit.reproduction.jobs import Machine\n"
        "from gvit.reproduction.reproduce import plan, reproduce\n"
        f"target = plan('table1b', 'debug', 1, 'runs', full=True, rows=[{ROWS[0]!r}])\n"
        "reproduce(target, 'debug', '', Path('results'), machine=Machine(), parallel=1, dry_run=False,\n"
        "          console=Console(file=sys.stderr))\n"
    )
    status, _, said = Forked(script, cwd=tmp_path).communicate()
    assert status == 1
    assert "InputError: a job's process came to reproduce() by reading the script; " in said
    assert said.splitlines()[-1].endswith(
        "InputError: a job's process ended with exit code 1, for what stands above; a script calls reproduce() below "
        "if __name__ == '__main__':. What was done is saved"
    )


def test_an_unusable_folder_is_named_before_anything_is_trained(tmp_path, capsys):
    (tmp_path / "results").write_text("a file")
    assert reproduce(tmp_path, "table1b", *QUICK) == 2
    assert "cannot write results here" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_a_damaged_result_is_named_before_anything_is_trained(tmp_path, capsys):
    for name, text, message in (
        ("results/digits_paper/table1a.json", '{"target": ', "table1a.json: damaged"),
        ("results/digits_paper/table1a.json", "{}", "not a result of gvit reproduce"),
        ("results/digits_paper/faithfulness.json", "{}", "not what 'gvit faithfulness --out' writes"),
        ("results/notes.json", "{", "notes.json: damaged"),
        (
            "results.md",
            "# Results\n\nof mine\n",
            "results.md: is no page of gvit reproduce, which would replace it",
        ),
    ):
        damaged = tmp_path / name
        damaged.parent.mkdir(parents=True, exist_ok=True)
        damaged.write_text(text)
        assert reproduce(tmp_path, "table1b", *QUICK) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
        assert damaged.read_text() == text
        damaged.unlink()
    assert not (tmp_path / "runs").exists()


def test_the_page_of_a_folder_named_by_dots_gets_its_name(tmp_path, monkeypatch):
    (tmp_path / "results" / "within").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "results" / "within")
    assert read_material(Path(".."), list(TARGETS)).page == tmp_path / "results.md"


def test_a_picture_is_drawn_of_runs_that_are_there(finished, tmp_path, monkeypatch):
    # into the folder one is in, whose name has a dot
    here = tmp_path / "v0.1"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("gvit.reproduction.pictures.BATCH", 100)  # of 360 images
    quick = [*QUICK, "--runs", str(finished / "runs")]
    with small_tables():
        assert main(["reproduce", "figure5", *quick, "--out", "."]) == 0
    content = json.loads((here / "debug" / "figure5.json").read_text())
    assert (here / "debug" / "figure5.png").stat().st_size > 10_000
    page = (tmp_path / "v0.1.md").read_text().replace("\n", " ")
    for number, label in zip(content["measured"], ("guided", "no guidance"), strict=True):
        assert number["text"].startswith(f"{label}: rank correlation")
        assert len(number["values"]) == 2
        assert all(-1 <= value <= 1 for value in number["values"])
        assert number["text"] in page
