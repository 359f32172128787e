"""Runs that are shared, resumed and found again."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import gvit
from gvit.recipes import load_recipe
from gvit.reproduction.execute import unfinished
from gvit.reproduction.jobs import Collection, Training, Trunk, share_trunks
from gvit.reproduction.targets import Study, change
from gvit.training.loop import Interrupted, train
from gvit.training.progress import ConsoleObserver

DEBUG = load_recipe("debug")  # 5 steps a phase


def silent(share: float) -> None: ...


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return gvit.load_model(folder).state_dict()


def assert_same_weights(one: Path, other: Path) -> None:
    expected, found = weights(one), weights(other)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_trainings_that_differ_in_gamma_share_all_steps_before_the_guidance(tmp_path):
    study = Study(DEBUG, [0], tmp_path)
    weak = study.train(change(study.guided, schedule={"gamma": 0.01}), 0)
    trainings = [weak, study.train(study.guided, 0), study.train(study.unguided, 0)]
    shared = share_trunks(trainings)
    trunks = {training.trunk for training in shared}
    assert len(trunks) == 1
    assert trunks.pop().steps == 15
    assert [training.folder for training in shared] == [training.folder for training in trainings]


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
        job.run("cpu", silent)
    for training in trainings:
        assert training.done
        alone = tmp_path / training.folder.name
        result = train(training.config, alone, ConsoleObserver(quiet=True))
        assert_same_weights(alone, training.folder)
        assert training.result["top1"] == result.top1
        assert training.result["psnr"] == result.psnr


def test_an_interrupted_job_goes_on_to_the_same_result(tmp_path):
    whole = Study(DEBUG, [0], tmp_path / "one")
    whole = whole.train(whole.guided, 0)
    whole.run("cpu", silent)
    cut = Study(DEBUG, [0], tmp_path / "two")
    cut = cut.train(cut.guided, 0)

    def stop(share: float) -> None:
        if share > 0.3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        cut.run("cpu", stop)
    assert not cut.done
    cut.run("cpu", silent)
    assert_same_weights(whole.folder, cut.folder)


def test_what_is_done_is_found_again_wherever_the_store_lies(tmp_path):
    def job(store: Path) -> Training:
        study = Study(DEBUG, [0], store)
        return study.read(study.collect(study.guided, 0), 0)

    one, other = job(tmp_path / "here"), job(tmp_path / "there")
    assert one.folder.name == other.folder.name
    assert one.folder.name != replace(Study(DEBUG, [1], tmp_path)).train(DEBUG, 1).folder.name


def test_needs_come_first_and_nothing_comes_twice(tmp_path):
    study = Study(DEBUG, [0], tmp_path)
    wanted = [
        study.read(study.collect(study.guided, 0), 0),
        study.train(study.unguided, 0),
        study.read(study.collect(study.unguided, 0), 0, pictures=True),
    ]
    jobs = unfinished(wanted)
    places = {job.folder: place for place, job in enumerate(jobs)}
    assert len(places) == len(jobs) == 7
    assert all(places[need.folder] < places[job.folder] for job in jobs for need in job.needs)
    assert [type(job) for job in jobs].count(Trunk) == 1
    assert [type(job) for job in jobs].count(Collection) == 2
