"""Everything of a run but its folder: data, task, schedule, made from a configuration."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from gvit.data.splits import Record
from gvit.errors import InputError, Note, option, wording
from gvit.models.base import ImageClassifier
from gvit.training.build import Known, build_model, resolved, settle_start
from gvit.training.config import GuidanceConfig, TrainConfig
from gvit.training.distributed import ALONE, World
from gvit.training.feed import Feed
from gvit.training.scaling import MOST_BATCH, balanced_weights, fitting_batch, in_proportion, stretched
from gvit.training.schedule import PHASES, Schedule, learning_rates
from gvit.training.task import Task, make_task

_NUM_PROBES = 32  # test images that show how far Gaussians move


@dataclass(frozen=True)
class Setup:
    """What a run consists of.

    Attributes:
        config: complete, nothing left to defaults.
        feed: images.
        task: networks.
        schedule: phases, in steps.
        notes: lines that the user should read.
    """

    config: TrainConfig
    feed: Feed
    task: Task
    schedule: Schedule
    notes: tuple[Note, ...]

    @property
    def eval_steps(self) -> int:
        """Steps from one evaluation to the next."""
        epochs = self.config.schedule.eval_every
        assert epochs is not None
        return max(1, round(epochs * self.feed.steps_per_epoch))

    @property
    def warmup_steps(self) -> int:
        epochs = self.config.optimizer.warmup_epochs
        assert epochs is not None
        return round(epochs * self.feed.steps_per_epoch)

    @property
    def best_measure(self) -> str:
        """The attribute of ``Evaluation`` by which the best weights are chosen."""
        return self.config.saving.best_measure or ("psnr" if self.schedule.encoder_only else "top1")

    def rates(self, step: int) -> dict[str, float]:
        """The learning rates of a step, of the networks that learn in it.

        The peak is linear in the batch (GViT paper, Appendix A).
        """
        scale, guide_lr = self.feed.batch_size / 256, self.config.schedule.guide_lr
        guide_peak = None if guide_lr is None else scale * guide_lr
        peak = self.config.optimizer.base_lr * scale
        rates = learning_rates(self.schedule, step, peak, self.warmup_steps, guide_peak)
        return {name: rate for name, rate in rates.items() if name in self.task.networks}


def set_up(
    config: TrainConfig,
    device: str = "cpu",
    world: World = ALONE,
    *,
    known: Known | None = None,
    initialize: bool = True,
    recorded: Record | None = None,
) -> Setup:
    """Load the data and build the networks; nothing is written.

    Args:
        config: of the run.
        device: of this process.
        world: the processes that share each batch.
        known: name and architecture of the model, where the run has begun already.
        initialize: read the weights of ``config.model.init``; a checkpoint makes that superfluous.
        recorded: which images are which split's, where the run has written it down.

    Raises:
        InputError: unusable configuration or data.
    """
    feed = Feed(config, world, recorded)
    config, notes = _scaled(config, feed)
    if known is None:
        model_config, of_start = settle_start(config.model)
        config, notes = replace(config, model=model_config), [*notes, *of_start]
    model, of_model = build_model(config, list(feed.train.class_names), feed.train.example, known, initialize)
    _check_range(config, model)
    task = make_task(model, config, torch.device(device), world)
    if config.objective.class_weights == "balanced":
        task.weigh_classes(balanced_weights(feed.train.labels, len(feed.train.class_names)))
    schedule = Schedule.from_config(config.schedule, feed.steps_per_epoch)
    if not schedule.total:
        raise InputError(f"the phases are shorter than one step; raise {option('epochs')}")
    feed.connect(model, task.draw_noise)
    few = range(0, len(feed.tests), -(-len(feed.tests) // _NUM_PROBES))
    task.watch(lambda: torch.stack([inputs for inputs, _ in feed.tests.readable(few)]))
    setup = Setup(resolved(config, model), feed, task, task.fit_schedule(schedule), ())
    # from the start: an interrupted run, too, is only what it is going to be
    model.card = replace(model.card, encoder_only=setup.schedule.encoder_only)
    _check_classes(setup)
    _check_best_measure(setup)
    if task.keeps_gaussians:
        of_model.append("the encoder stands still, and images come again as they are: each is encoded once")
    notes = [*notes, *of_model, *_proportions(setup), *_left_out(setup), *feed.notes]
    return replace(setup, notes=tuple(map(Note, notes)))


def _scaled(config: TrainConfig, feed: Feed) -> tuple[TrainConfig, list[str]]:
    """What the configuration leaves to the number of training images, written out; and a line that says so."""
    batch = config.data.batch_size or fitting_batch(len(feed.train))
    schedule = stretched(config.schedule, feed.steps_per_epoch)
    told = []
    if config.data.batch_size is None and batch != MOST_BATCH:
        told.append(f"batches of {feed.batch_size}")
    if schedule != config.schedule:
        epochs, usual = (sum(phases.phase_epochs()) for phases in (schedule, config.schedule))
        steps = round(epochs * feed.steps_per_epoch)
        told.append(f"{epochs:g} epochs instead of {usual:g} ({steps} steps)")
    else_ = f"{option('batch_size')} and {option('epochs')} decide otherwise"
    notes = [f"{len(feed.train)} images to train on: {' and '.join(told)}; {else_}"] if told else []
    if None not in (config.schedule.epochs, config.schedule.min_steps):
        notes.append(f"{option('min_steps')} has no effect beside {option('epochs')}")
    scaled = replace(config, data=replace(config.data, batch_size=batch), schedule=schedule)
    return in_proportion(scaled), notes


def _check_range(config: TrainConfig, model: ImageClassifier) -> None:
    if config.objective.gaussians_range is None or model.encoder is None:
        return
    for part, what in ((model.encoder, "an encoder"), (model.tokens, "tokens")):
        if not part.any_number:
            raise InputError(
                f"{option('gaussians_range')} needs {what} of any number of Gaussians, not {part.kind!r}"
            )


def _check_classes(setup: Setup) -> None:
    names = setup.feed.train.class_names
    if len(names) == 1 and not setup.schedule.encoder_only:
        raise InputError(
            f"all images are of one class, {names[0]!r}: there is nothing to tell apart; an encoder alone is trained "
            f"with {option('classify_epochs', 0)} {option('guide_epochs', 0)}"
        )


def _check_best_measure(setup: Setup) -> None:
    model, measure = setup.task.model, setup.best_measure
    if measure in ("psnr", "ssim"):
        missing = "a model that draws" if model.encoder is None else ""
    elif setup.schedule.encoder_only:
        missing = "a classifier that is trained"
    else:
        missing = "more than five classes" if measure == "top5" and model.num_classes <= 5 else ""
    if missing:
        raise InputError(f"{option('best_measure', measure)} needs {missing}")


def _left_out(setup: Setup) -> list[str]:
    """What is asked for and has no effect, and what has one and is not asked for."""
    notes, guided = [], setup.schedule.guided_steps != "none" and setup.schedule.steps_of("guide")
    if setup.task.model.encoder is not None and not guided:  # a model without one has a line of its own
        usual, given = GuidanceConfig(), setup.config.guidance
        names = [f.name for f in fields(given) if getattr(given, f.name) != getattr(usual, f.name)]
        notes += [f"{option(name)} has no effect: no step is guided" for name in names]
    objective, schedule = setup.config.objective, setup.config.schedule
    if setup.schedule.steps_of("perceptual") and not objective.perceptual_weight:
        notes.append(
            f"{option('perceptual_epochs')} has no effect of its own: {option('perceptual_weight')} is 0"
        )
    if setup.schedule.encoder_only:
        none = f"{option('classify_epochs')} and {option('guide_epochs')} are 0"
        notes.append(f"an encoder alone is trained, no classifier: {none}")
        asked = {
            "class_weights": objective.class_weights != "none",
            "freeze_encoder": schedule.freeze_encoder,
        }
        names = [name for name, is_asked in asked.items() if is_asked]
        notes += [f"{option(name)} has no effect: no classifier is trained" for name in names]
    if schedule.guide_lr is not None and not setup.schedule.steps_of("guide"):
        notes.append(f"{option('guide_lr')} has no effect: there is no guided phase")
    if not setup.config.compute.graphs and setup.task.can_be_graphed:
        notes.append(
            f"{wording('graphs=True', '--graphs')} is faster here: a look of the encoder becomes one CUDA graph"
        )
    if not setup.config.compute.graphs or setup.task.graphs:
        return notes
    return [
        *notes,
        f"{option('graphs')} has no effect: it is for one GPU, {option('precision', 'float32')}, an encoder of several "
        f"looks and one number of Gaussians, without {option('accumulate')}, {option('compile')} and "
        f"{option('grad_checkpointing')}",
    ]


def _proportions(setup: Setup) -> list[str]:
    """What is out of proportion in a run, though it can be done."""
    feed, schedule, notes = setup.feed, setup.schedule, []
    if feed.batch_size < (setup.config.data.batch_size or 0):
        notes.append(
            f"{len(feed.train)} images to train on: a batch has {feed.batch_size}, not {setup.config.data.batch_size}"
        )
    for phase, epochs in zip(PHASES, setup.config.schedule.phase_epochs(), strict=True):
        # without an encoder there is one phase alone
        if epochs and not schedule.steps_of(phase) and setup.task.model.encoder is not None:
            notes.append(f"{option(f'{phase}_epochs', epochs)} are less than a step: the phase is left out")
    trained, learning = "classifier", schedule.total - schedule.classify_start
    if schedule.encoder_only:
        trained, learning = "encoder", schedule.total
    if 0 < learning < 2 * setup.warmup_steps:
        epochs, whole = learning / feed.steps_per_epoch, schedule.total / feed.steps_per_epoch
        notes.append(
            f"the warm-up, {setup.config.optimizer.warmup_epochs:g} epochs, takes over half of the {trained}'s "
            f"{epochs:.3g}; {option('warmup_epochs', float(f'{whole / 20:.2g}'))} would be in proportion"
        )
    decay, kept = setup.config.optimizer.ema_decay, 0.05
    if decay is not None and decay**schedule.total > kept:
        share, usual = 100 * decay**schedule.total, 1 - (kept / 2) ** (1 / schedule.total)
        notes.append(
            f"{option('ema_decay', decay)}: of an average over {schedule.total} steps, {share:.0f} % are the weights "
            f"before the first; {option('ema_decay', round(1 - float(f'{usual:.2g}'), 8))} would be in proportion"
        )
    return notes
