"""What the tables and figures consist of."""

from dataclasses import replace

import pytest

from gvit.recipes import load_recipe
from gvit.reproduction.jobs import CrossEvaluation, Training, architecture_of
from gvit.reproduction.reproduce import TARGETS
from gvit.reproduction.study import Study
from gvit.training.budget import with_budget

RECIPES = (
    "digits_paper",
    "cifar10_paper",
    "imagenette_paper",
    "digits",
    "cifar10",
    "mini_imagenet",
    "imagenet1k",
)


def trainings(target) -> list[Training]:
    jobs = [row.job for row in target.rows]
    return [job.training if isinstance(job, CrossEvaluation) else job for job in jobs]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("what", sorted(TARGETS))
def test_every_claim_is_about_rows_that_every_seed_has(what, recipe, tmp_path):
    target = TARGETS[what](Study(load_recipe(recipe), (0, 1), tmp_path))
    seeds = {}
    for row in target.rows:
        seeds.setdefault(row.label, []).append(row.seed)
    expected = [0] if what == "figure4" else [0, 1]
    assert all(sorted(found) == expected for found in seeds.values()), seeds
    assert target.claims or target.picture is not None
    for claim in target.claims:
        assert claim.better in seeds
        assert claim.worse in seeds
        assert claim.better != claim.worse


@pytest.mark.parametrize("recipe", ["digits", "digits_paper"])
@pytest.mark.parametrize("what", sorted(TARGETS))
def test_every_variation_of_the_recipes_model_can_be_built(what, recipe, tmp_path):
    """An encoder of another kind may not fit the size of the recipe's."""
    base = load_recipe(recipe)
    target = TARGETS[what](Study(base, (0,), tmp_path))
    varied = [t.config for t in trainings(target) if t.config.model.model == base.model.model]
    for model in {config.model: config for config in varied}.values():
        architecture_of(model).build()


@pytest.mark.parametrize("what", sorted(set(TARGETS) - {"table2"}))
def test_rows_differ_in_nothing_but_what_is_compared(what, tmp_path):
    base = load_recipe("digits_paper")
    target = TARGETS[what](Study(base, (0,), tmp_path))
    for training in trainings(target):
        config = training.config
        assert config.optimizer == base.optimizer
        assert config.compute == base.compute
        assert config.data.batch_size == base.data.batch_size
        assert sum(config.schedule.phase_epochs()) == pytest.approx(sum(base.schedule.phase_epochs()))
        same = replace(config.data, dataset="digits", data_dir=None)
        assert same == base.data


def test_table1_has_the_papers_values(tmp_path):
    study = Study(load_recipe("mini_imagenet"), (0,), tmp_path)

    def settings(what, read) -> dict:
        return {read(row.job.config): row.paper for row in TARGETS[what](study).rows}

    assert settings("table1a", lambda c: c.model.scale_factor) == {
        0.5: 73.4,
        0.75: 74.6,
        1.0: 75.2,
        2.0: 73.7,
    }
    gammas = settings("table1b", lambda c: c.schedule.gamma * (c.schedule.guided_steps != "none"))
    assert gammas == {0.0: None, 0.025: 72.3, 0.05: 73.6, 0.075: 74.2, 0.1: 75.2}
    losses = settings("table1c", lambda c: (c.objective.pixel_loss, c.objective.perceptual_weight))
    assert losses == {("mse", 0.0): 65.7, ("bce", 0.0): 71.7, ("mse", 0.1): 69.8, ("bce", 0.1): 72.3}
    counts = [
        (row.job.config.model.num_gaussians or 512, row.job.config.schedule.guided_steps != "none", row.paper)
        for row in TARGETS["figure3"](study).rows
        if row.series != "patch ViT"
    ]
    # the number that the model has anyway is the run that other targets have, too
    unguided = {row.job.folder for row in TARGETS["table1d"](study).rows if row.label == "denoising"}
    assert unguided <= {row.job.folder for row in TARGETS["figure3"](study).rows}
    assert {count for count, _, _ in counts} == {64, 128, 256, 512, 768, 1024}
    assert (64, False, 44.5) in counts
    assert (768, True, 78.7) in counts


def test_the_budget_shrinks_phases_and_warm_up_alike():
    config = load_recipe("digits_paper")
    whole, warmup = sum(config.schedule.phase_epochs()), config.optimizer.warmup_epochs
    short = with_budget(config, whole / 4)
    assert short.schedule.phase_epochs() == pytest.approx([e / 4 for e in config.schedule.phase_epochs()])
    assert short.optimizer.warmup_epochs == pytest.approx(warmup / 4)
    assert with_budget(load_recipe("folder"), 2).schedule.min_steps is None  # as by --epochs


def test_base_models_take_over_the_small_ones_encoder(tmp_path):
    target = TARGETS["table2"](Study(load_recipe("imagenet1k"), (0,), tmp_path))
    jobs = {row.label: row.job for row in target.rows}
    base = jobs["GViT-B, guided"]
    assert base.config.model.init == jobs["GViT-S, guided"].folder
    assert jobs["GViT-S, guided"] in base.needs
    assert base.config.schedule.gamma == 0.05
    assert base.config.schedule.phase_epochs() == (0, 0, 150, 50)


def test_digits_are_transferred_from_some_classes_to_the_others(tmp_path):
    target = TARGETS["table2"](Study(load_recipe("digits_paper"), (0,), tmp_path))
    jobs = {row.label: row.job for row in target.rows}
    first, second = jobs["GViT, guided: 0 to 4"], jobs["GViT, guided: 5 to 9"]
    assert (first.config.data.dataset, second.config.data.dataset) == ("digits_0_4", "digits_5_9")
    assert second.config.model.init == first.folder
    assert second.config.schedule.freeze_encoder
    assert second.config.schedule.phase_epochs()[:2] == (0, 0)
    # of the whole recipe, whose phases are given in epochs
    assert {sum(job.config.schedule.phase_epochs()) for job in jobs.values()} == {120}


def test_data_sets_to_transfer_to_are_those_that_are_there(tmp_path):
    for name in ("pets", "dtd", "unknown"):
        (tmp_path / "data" / name).mkdir(parents=True)
    study = Study(load_recipe("imagenet1k"), (0,), tmp_path, tmp_path / "data")
    labels = {row.label.partition(": ")[2] for row in TARGETS["table2"](study).rows}
    assert labels == {"", "pets", "dtd"}
