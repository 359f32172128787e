"""Runs that are shared, resumed and found again."""

import hashlib
import io
import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from rich.console import Console

import gvit
from forked import context
from gvit.data.sources import SOURCES, Source, digits, load_source
from gvit.data.sources.base import split_off
from gvit.errors import InputError
from gvit.gaussians import Gaussians
from gvit.provenance import describe
from gvit.recipes import load_recipe
from gvit.reproduction import execute, jobs
from gvit.reproduction.answers import unpack
from gvit.reproduction.execute import unfinished
from gvit.reproduction.jobs import Collection, CrossEvaluation, Machine, Training, Trunk
from gvit.reproduction.report import remarks
from gvit.reproduction.reproduce import TARGETS
from gvit.reproduction.same_images import data_now
from gvit.reproduction.study import Study, change
from gvit.reproduction.trunks import share_trunks
from gvit.training.config import GuidanceConfig
from gvit.training.run import Run
from gvit.training.setup import set_up
from gvit.training.stumbling import Stumbling
from gvit.training.train import Interrupted, train
from small_runs import assert_same_weights

DEBUG = change(load_recipe("debug"), model={"img_size": 16})  # 5 steps a phase


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """A run's report and curves take longer than a short run."""
    for drawn in ("write_report", "write_curves"):
        monkeypatch.setattr(f"gvit.training.train.{drawn}", lambda run: None)


def silent(share: float) -> None: ...


def test_trainings_that_differ_in_gamma_share_all_steps_before_the_guidance(tmp_path):
    study = Study(DEBUG, [0], tmp_path)
    weak = study.train(change(study.guided, schedule={"gamma": 0.01}), 0)
    trainings = [weak, study.train(study.guided, 0), study.train(study.unguided, 0)]
    shared = share_trunks(trainings)
    trunks = {training.trunk for training in shared}
    assert len(trunks) == 1
    assert trunks.pop().steps == 15
    assert [training.folder for training in shared] == [training.folder for training in trainings]


def test_all_ways_to_guide_share_what_comes_before(tmp_path):
    rows = TARGETS["guidance"](Study(DEBUG, [0, 1], tmp_path)).rows
    shared = share_trunks([row.job for row in rows])
    assert {(training.trunk.config.seed, training.trunk.steps) for training in shared} == {(0, 15), (1, 15)}
    assert len({training.trunk for training in shared}) == 2


def test_a_way_to_guide_that_remembers_branches_to_the_weights_of_a_run_of_its_own(tmp_path):
    rows = TARGETS["guidance"](Study(DEBUG, [0], tmp_path / "store")).rows
    jobs_ = {row.label: row.job for row in rows}
    chosen = [jobs_[label] for label in ("no guidance", "every step, averaged, at most 2 dB")]
    for job in unfinished(chosen):
        job.run(Machine(), silent)
    for training in chosen:
        train(training.config, tmp_path / training.folder.name)
        assert_same_weights(tmp_path / training.folder.name, training.folder)
        assert training.result["moved"] is not None


@pytest.mark.parametrize(
    "other",
    [
        {"model": {"scale_factor": 0.5}},
        {"objective": {"pixel_loss": "mse"}},
        {"schedule": {"epochs": 1.0}},
        {"schedule": {"reconstruct_epochs": 2.0}},
    ],
)
def test_what_differs_from_the_first_step_on_shares_nothing(other, tmp_path):
    study = Study(DEBUG, [0], tmp_path)
    trainings = [study.train(study.guided, 0), study.train(change(study.guided, **other), 0)]
    assert share_trunks(trainings) == trainings


def test_other_seeds_have_trunks_of_their_own(tmp_path):
    study = Study(DEBUG, [0, 1], tmp_path)
    trainings = [study.train(config, seed) for config in (study.guided, study.unguided) for seed in (0, 1)]
    trunks = {training.trunk for training in share_trunks(trainings)}
    assert {trunk.config.seed for trunk in trunks} == {0, 1}


def test_a_branch_ends_with_the_weights_of_a_run_of_its_own(tmp_path):
    study = Study(DEBUG, [0], tmp_path / "store")
    trainings = [study.train(study.unguided, 0), study.train(study.guided, 0)]
    for job in unfinished(trainings):
        job.run(Machine(), silent)
    for training in trainings:
        assert training.done
        alone = tmp_path / training.folder.name
        result = train(training.config, alone)
        assert_same_weights(alone, training.folder)
        assert training.result["top1"] == result.top1
        assert training.result["psnr"] == result.psnr
        assert unpack(training.result["right"], result.num_images).tolist() == result.right
        assert sum(result.right) == result.top1 * result.num_images


def test_results_name_all_commits_that_trained_them(tmp_path, monkeypatch):
    study = Study(DEBUG, [0], tmp_path / "store")
    guided, unguided = share_trunks([study.train(study.guided, 0), study.train(study.unguided, 0)])

    def train_at(commit: str, job: Trunk | Training, share: float = 2.0) -> None:
        monkeypatch.setenv("GVIT_COMMIT", commit)
        shares: list[float] = []
        job.run(Machine(), shares.append, lambda: shares[-1] > share)

    def commits(job: Trunk | Training) -> str:
        return re.match(r"commits? ([\w ]+(, \w+ and \w+)?)", describe(job.result["provenance"]))[1]

    with pytest.raises(Interrupted):
        train_at("a1", guided.trunk, 0.3)
    train_at("b2", guided.trunk)
    train_at("c3", guided)
    assert [commits(job) for job in (guided.trunk, guided)] == ["a1 and b2", "a1, b2 and c3"]
    # an older gvit did not write them down, but in the results
    (guided.trunk.folder / "commits.txt").unlink()
    with pytest.raises(Interrupted):
        train_at("d4", unguided, 0.3)
    assert (unguided.folder / "commits.txt").read_text().split() == ["b2", "d4"]
    (unguided.folder / "commits.txt").unlink()
    train_at("e5", unguided)
    assert commits(unguided) == "unknown and e5"


def test_an_interrupted_job_goes_on_to_the_same_result(tmp_path):
    whole = Study(DEBUG, [0], tmp_path / "one")
    whole = whole.train(whole.guided, 0)
    whole.run(Machine(), silent)
    cut = Study(DEBUG, [0], tmp_path / "two")
    cut = cut.train(cut.guided, 0)

    shares: list[float] = []
    with pytest.raises(Interrupted):
        cut.run(Machine(), shares.append, lambda: shares[-1] > 0.3)
    assert shares == [step / 20 for step in range(1, 8)]
    assert not cut.done
    cut.run(Machine(), silent)
    assert_same_weights(whole.folder, cut.folder)


def test_a_job_goes_on_on_another_machine_and_has_the_folder_it_had(tmp_path):
    study = Study(DEBUG, [0], tmp_path)
    job, shares = study.train(study.guided, 0), list[float]()
    with pytest.raises(Interrupted):
        job.run(Machine(workers=1), shares.append, lambda: shares[-1] > 0.3)
    assert Run(job.folder).load_config().data.workers == 1
    job.run(Machine(graphs=True, eval_every=0.5, accumulate=2), silent)
    config = Run(job.folder).load_config()
    assert (config.data.workers, config.compute.graphs, config.schedule.eval_every) == (0, True, 0.5)
    assert config.compute.accumulate == 2
    assert study.train(study.guided, 0).done


def test_branches_with_a_rate_of_their_own_leave_the_trunk_where_it_begins(tmp_path):
    study = Study(DEBUG, [0], tmp_path)
    own = change(study.unguided, schedule={"guide_lr": 0.01})
    (trunk, *_) = unfinished([study.train(study.unguided, 0), study.train(own, 0)])
    schedule = set_up(DEBUG).schedule
    assert isinstance(trunk, Trunk)
    assert trunk.steps == schedule.steps_of("guide").start


def test_two_ways_to_guide_share_nothing_of_the_guidance(tmp_path):
    study = Study(DEBUG, [0], tmp_path)
    ways = [
        replace(study.guided, guidance=GuidanceConfig(projection=units)) for units in ("image", "gaussian")
    ]
    trunks = {training.trunk for training in share_trunks([study.train(way, 0) for way in ways])}
    assert [trunk.steps for trunk in trunks] == [set_up(DEBUG).schedule.steps_of("guide").start]


def test_a_later_training_branches_off_where_earlier_ones_did(tmp_path):
    study = Study(DEBUG, [0], tmp_path / "store")
    earlier = [study.train(study.unguided, 0), study.train(study.guided, 0)]
    (trunk, *_) = unfinished(earlier)
    trunk.run(Machine(workers=1), silent)  # where it was trained does not matter
    later = study.train(change(study.guided, schedule={"gamma": 0.05}), 0)

    (job,) = unfinished([later])
    assert isinstance(job, Training)
    assert job.trunk is not None
    assert job.trunk.folder == trunk.folder
    shares: list[float] = []
    job.run(Machine(), shares.append)
    assert len(shares) == 5  # of 20 steps
    train(later.config, tmp_path / "alone")
    assert_same_weights(tmp_path / "alone", later.folder)


@pytest.mark.parametrize(
    "other",
    [
        {"schedule": {"epochs": 1.0}},
        {"schedule": {"guide_epochs": 2.0}},
        {"objective": {"pixel_loss": "mse"}},
        {"schedule": {"freeze_encoder": True}},
    ],
)
def test_a_later_training_that_begins_otherwise_has_no_trunk(other, tmp_path):
    study = Study(DEBUG, [0], tmp_path)
    (trunk, *_) = unfinished([study.train(study.unguided, 0), study.train(study.guided, 0)])
    trunk.run(Machine(), silent)
    (job,) = unfinished([study.train(change(study.guided, **other), 0)])
    assert isinstance(job, Training)
    assert job.trunk is None


def test_a_beginning_whose_checkpoint_was_removed_is_trained_again(tmp_path):
    study = Study(DEBUG, [0], tmp_path)
    pair = [study.train(study.unguided, 0), study.train(study.guided, 0)]
    (trunk, *_) = unfinished(pair)
    trunk.run(Machine(), silent)
    Run(trunk.folder).checkpoint_file.unlink()
    assert (trunk.folder / "result.json").is_file()
    (again, *branches) = unfinished(pair)
    assert again == trunk
    for job in (again, *branches):
        job.run(Machine(), silent)
    assert all(job.done for job in pair)


def test_a_beginning_that_is_there_by_now_is_kept(tmp_path):
    study = Study(DEBUG, [0], tmp_path)
    (trunk, *_) = unfinished([study.train(study.unguided, 0), study.train(study.guided, 0)])
    trunk.run(Machine(), silent)
    before = {file: file.stat().st_mtime_ns for file in trunk.folder.iterdir()}
    trunk.run(Machine(), silent)
    assert {file: file.stat().st_mtime_ns for file in trunk.folder.iterdir()} == before


def test_beginnings_of_other_versions_are_passed_over(tmp_path):
    study = Study(DEBUG, [0], tmp_path)
    (trunk, *_) = unfinished([study.train(study.unguided, 0), study.train(study.guided, 0)])
    trunk.run(Machine(), silent)
    for number, text in enumerate(("{", "[]", "{}", '{"steps": 1, "config": {"seed": 0, "later": 1}}')):
        folder = tmp_path / f"trunk-seed0-{number}"
        folder.mkdir()
        (folder / "result.json").write_text(text)
    (job,) = unfinished([study.train(change(study.guided, schedule={"gamma": 0.05}), 0)])
    assert job.trunk.folder == trunk.folder


@pytest.mark.parametrize(
    ("text", "reason"),
    [('{"top1": ', "Expecting value"), ("[]", "list"), ('{"top1": 1}', "it has no 'epochs'")],
)
def test_a_damaged_result_is_named_before_anything_is_trained(text, reason, tmp_path):
    study = Study(DEBUG, [0], tmp_path)
    training = study.train(DEBUG, 0)
    training.folder.mkdir()
    file = training.folder / "result.json"
    file.write_text(text)
    with pytest.raises(InputError, match=rf"{re.escape(str(file))}: damaged \(.*{reason}.*\); remove it"):
        execute.check_data([training])


def test_weights_to_start_from_are_shown_without_their_folders(tmp_path):
    file = tmp_path / "start.safetensors"
    file.write_bytes(b"weights")
    digits = hashlib.sha256(b"weights").hexdigest()[:8]
    assert jobs.start_shown(file) == f"start.safetensors@{digits}"
    for name in ("hf-hub:somebody/gvit", "gvit_tiny.digits"):
        assert jobs.start_shown(Path(name)) == name


def test_a_training_that_another_process_has_says_what_helps_here(tmp_path, monkeypatch):
    monkeypatch.setattr("gvit.training.run._PATIENCE", 0)
    training = Study(DEBUG, [0], tmp_path).train(DEBUG, 0)
    Run.create(training.folder, DEBUG)
    with Run(training.folder).locked(), pytest.raises(InputError) as refused:
        training.run(Machine(), silent)
    assert refused.value.for_command_line() == (
        f"{training.folder}: another process is training here; wait for it, or begin elsewhere with another --runs"
    )


@contextmanager
def forked_workers():
    """By processes that have imported everything already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "multiprocessing", SimpleNamespace(get_context=lambda _: context()))
        yield


def test_what_does_not_need_a_failed_job_is_done(tmp_path):
    study, said = Study(DEBUG, [0, 1], tmp_path), io.StringIO()
    failing, other = study.train(study.guided, 0), study.train(study.guided, 1)
    checkpoint = Run.create(failing.folder, failing.config).checkpoint_file
    checkpoint.write_bytes(b"damaged")
    collection = study.collect(study.guided, 0)
    wanted = [study.read(collection, 0), other]
    with forked_workers(), pytest.raises(InputError) as refused:
        execute.execute(wanted, 1, Machine(), Console(file=said, soft_wrap=True))
    message = refused.value.for_command_line()
    assert message.startswith(f"{failing.folder.name}: {checkpoint}: damaged (")
    assert message.endswith(
        f"; the same command tries again, from the beginning where {failing.folder} is removed, and --rows leaves "
        "rows out"
    )
    assert "; 2 jobs left out that would need it" in said.getvalue()
    assert other.done
    assert not collection.folder.exists()


def test_a_job_without_memory_says_what_needs_less():
    def run(*_) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(InputError) as refused:
        execute._work(SimpleNamespace(run=run), Machine())
    assert refused.value.for_command_line().endswith("; --accumulate or fewer --jobs need less")


def test_a_store_is_for_one_process_at_a_time(tmp_path):
    training = Study(DEBUG, [0], tmp_path / "store").train(DEBUG, 0)
    training.folder.parent.mkdir()
    with FileLock(tmp_path / "store" / ".lock"), pytest.raises(InputError) as refused:
        execute.execute([training], 1, Machine(), Console())
    assert refused.value.for_command_line() == (
        f"{tmp_path / 'store'}: another gvit reproduce works here; wait for it, or use another --runs"
    )
    assert not training.folder.exists()


def test_other_weights_to_start_from_are_another_run(tmp_path):
    start = tmp_path / "start.safetensors"
    folders = []
    for seed in (0, 1):
        gvit.save_model(set_up(replace(DEBUG, seed=seed)).task.model, start)
        config = change(DEBUG, model={"init": start})
        pair = [
            Study(config, [0], tmp_path).train(c, 0)
            for c in (config, change(config, schedule={"gamma": 0.05}))
        ]
        (trunk, *trainings) = unfinished(pair)
        folders.append({job.folder for job in (trunk, *trainings)})
        trunk.run(Machine(), silent)  # which the next ones can't branch off from
    assert len(folders[0]) == len(folders[1]) == 3
    assert not folders[0] & folders[1]


def test_what_was_trained_with_other_images_is_refused(tmp_path, few, monkeypatch):
    def grown(split, data_dir=None) -> Source:
        return split_off(digits.source("train", classes=range(3)).take(range(count)), split)

    monkeypatch.setitem(SOURCES, "few_digits", grown)
    monkeypatch.setattr(jobs, "BATCH", 8)
    study, count = Study(few, [0], tmp_path), 30
    fits = replace(study.collect(None, 0), fit_steps=1)
    with pytest.raises(Interrupted):
        fits.run(Machine(), silent, lambda: True)
    (done,) = unfinished([study.train(study.guided, 0)])
    begun = study.train(study.unguided, 0)
    done.run(Machine(), silent)
    with pytest.raises(Interrupted):
        begun.run(Machine(), silent, lambda: True)
    execute.check_data([done, begun, fits])

    count = 40
    data_now.cache_clear()
    of_encoder = study.collect(study.guided, 0)
    for job, other in ((done, done), (begun, begun), (of_encoder, done), (study.read(fits, 0), fits)):
        with pytest.raises(InputError, match=f"few_digits: other images than {re.escape(str(other.folder))}"):
            execute.check_data([job])
    (fits.folder / "data.txt").unlink()  # an older gvit wrote none
    execute.check_data([fits])
    # a set of what the encoder was trained with has its test images, whatever came later
    train, test = Collection.of(tmp_path, few, done).images()
    assert (len(train), len(test)) == (25, 5)  # of 40, they would be 33 and 7
    data_now.cache_clear()


def test_what_did_not_go_as_planned_is_told(tmp_path, few, monkeypatch):
    study = Study(few, [0], tmp_path)
    training = study.train(study.guided, 0)
    assert Stumbling.state(Stumbling(3, "")) == {"skipped": 0, "in_a_row": 0, "gamma": 1.0}
    monkeypatch.setattr(Stumbling, "state", lambda self: {"skipped": 2, "in_a_row": 0, "gamma": 0.5})
    training.run(Machine(), silent)
    row = {"label": "gamma = 0.1", "seed": 0} | training.result
    (said,) = remarks([row])
    assert said.startswith("gamma = 0.1, seed 0: gamma was multiplied by 0.5 ")
    assert "2 steps skipped" in said
    assert remarks([row | {"stumbling": {}}]) == []
    assert "1 image left out" in remarks([row | {"broken": 1}])[0]
    assert said.removeprefix("gamma = 0.1, seed 0: ").rstrip(".").replace("; ", "  ") in execute._summary(
        training
    )


def test_what_is_done_is_found_again_wherever_the_store_lies(tmp_path):
    def job(store: Path) -> Training:
        study = Study(DEBUG, [0], store)
        return study.read(study.collect(study.guided, 0), 0)

    one, other = job(tmp_path / "hier"), job(tmp_path / "dört")
    assert one.folder.name == other.folder.name
    assert one.folder.name != replace(Study(DEBUG, [1], tmp_path)).train(DEBUG, 1).folder.name


def test_needs_come_first_and_nothing_comes_twice(tmp_path):
    study = Study(DEBUG, [0], tmp_path)
    wanted = [
        study.read(study.collect(study.guided, 0), 0),
        study.train(study.unguided, 0),
        study.read(study.collect(study.unguided, 0), 0, pictures=True),
    ]
    found = unfinished(wanted)
    places = {job.folder: place for place, job in enumerate(found)}
    assert len(places) == len(found) == 7
    assert all(places[need.folder] < places[job.folder] for job in found for need in job.needs)
    assert [type(job) for job in found].count(Trunk) == 1
    assert [type(job) for job in found].count(Collection) == 2


@pytest.fixture
def few(monkeypatch):
    """A study of thirty digits of three classes."""

    def load(split, data_dir=None) -> Source:
        whole = digits.source(split, classes=range(3))
        return Source(whole.load, whole.labels[: {"train": 30, "test": 12}[split]], whole.class_names)

    monkeypatch.setitem(SOURCES, "few_digits", load)
    return change(DEBUG, data={"dataset": "few_digits", "batch_size": 10}, schedule={"epochs": 4.0})


def test_a_frozen_set_is_what_the_encoder_makes_of_every_image(few, tmp_path):
    study = Study(few, [0], tmp_path)
    collection = study.collect(study.guided, 0)
    for job in unfinished([collection]):
        job.run(Machine(), silent)
    model = gvit.load_model(collection.source.folder)
    for split, images, count in zip(("train", "test"), collection.images(), (30, 12), strict=True):
        frozen = load_source("gaussians", split, collection.data_dir)
        assert len(frozen) == count
        assert sorted(frozen.labels) == sorted(images.source.labels)
        files = sorted((collection.data_dir / split).rglob("*.safetensors"), key=lambda file: file.name)
        with torch.no_grad():
            expected = model.encode(torch.stack([images[row][0] for row in range(count)])).raw
        found = torch.stack([Gaussians.load(file).raw for file in files])
        torch.testing.assert_close(found, expected)
        assert [int(file.parent.name) for file in files] == list(images.source.labels)


def test_fits_go_on_where_they_stopped(few, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "BATCH", 8)
    collection = replace(Study(few, [0], tmp_path).collect(None, 0), fit_steps=30)

    shares: list[float] = []
    with pytest.raises(Interrupted):
        collection.run(Machine(), shares.append, lambda: shares[-1] > 0.3)
    assert shares == [8 / 42, 16 / 42]
    before = {file: file.stat().st_mtime_ns for file in collection.data_dir.rglob("*.safetensors")}
    assert len(before) == 16
    assert not collection.done
    collection.run(Machine(), silent)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert len(list(collection.data_dir.rglob("*.safetensors"))) == 42
    assert collection.result["psnr"] > 20


def test_a_worker_that_is_told_to_stop_keeps_what_it_has(few, tmp_path, monkeypatch):
    """Not by dying: a pool of processes that lost one kills the others."""

    class Told:
        def is_set(self) -> bool:
            return True

        def put(self, report) -> None: ...

    monkeypatch.setattr(execute, "_stop", Told(), raising=False)
    monkeypatch.setattr(execute, "_reports", Told(), raising=False)
    monkeypatch.setattr(jobs, "BATCH", 8)
    study = Study(few, [0], tmp_path)
    collection = replace(study.collect(None, 0), fit_steps=1)
    execute._work(collection, Machine())
    assert not collection.done
    assert len(list(collection.data_dir.rglob("*.safetensors"))) == 8
    training = study.train(few, 0)
    execute._work(training, Machine())
    assert not training.done
    assert torch.load(training.folder / "checkpoint.pt", weights_only=True)["step"] == 1


def test_crossed_with_its_own_set_a_classifier_is_as_good_as_it_was(few, tmp_path):
    study = Study(few, [0], tmp_path)
    own, other = study.collect(study.guided, 0), study.collect(study.queries, 0)
    training = study.read(own, 0)
    crossed = [CrossEvaluation.of(tmp_path, training, collection) for collection in (own, other)]
    for job in unfinished(crossed):
        job.run(Machine(), silent)
    assert crossed[0].result["top1"] == training.result["top1"]
    assert crossed[1].result["num_images"] == 12
    assert crossed[0].folder != crossed[1].folder
