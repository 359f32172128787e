"""Time: steps, evaluations, checkpoints, and when to stop. What a step does is the task's business."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from shlex import quote
from typing import Any

from gvit.data.loading import Batch, Broken
from gvit.data.processes import LoadingError
from gvit.errors import InputError, first_line, for_python, wording
from gvit.evaluation import Evaluation, summarize
from gvit.models.architecture import Architecture
from gvit.models.weights import save_model
from gvit.training.broken import BrokenImages
from gvit.training.distributed import ALONE, World
from gvit.training.observers.base import Evaluated, Observer, Start, Step
from gvit.training.observers.jsonl import JsonlObserver
from gvit.training.report import unreadable
from gvit.training.run import Run
from gvit.training.schedule import StepPlan
from gvit.training.setup import Setup
from gvit.training.stumbling import Diverged, Stumbling


class Interrupted(Exception):
    """Training was asked to stop; everything up to that step is saved."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step


def never() -> bool:
    """For who does not want to stop a training."""
    return False


@dataclass
class Loop:
    """One training run, in this process's part.

    Every step is a pure function of the configuration, the step and the state that a checkpoint holds, so a run
    that was interrupted goes on to the same weights as one that was not.

    Attributes:
        setup: what the run consists of.
        run: its folder; the main process writes there.
        observers: are told how it goes on, beside ``metrics.jsonl``.
        world: the processes that train together.
        step: steps done.
        best: the largest value of the best measure so far; None before the first evaluation that tells.
        unmeasured: an evaluation is due at this step, and was put off, or a test image could not be read.
    """

    setup: Setup
    run: Run
    observers: Iterable[Observer] = ()
    world: World = ALONE
    step: int = 0
    best: float | None = None
    unmeasured: bool = False

    def __post_init__(self) -> None:
        self.broken: BrokenImages = BrokenImages(self.setup.feed, self.setup.config.broken.max_broken)
        self.stumbling: Stumbling = Stumbling(self.setup.config.optimizer.max_skipped, str(self.run.folder))

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a checkpoint.

        Raises:
            InputError: it is of another model, or of other classes.
        """
        ours = list(self.setup.task.model.card.class_names)
        self.run.check_classes(state.get("class_names", ours), ours)
        try:
            self.setup.task.load_state(state)
            self.step = state["step"]
            # of an older gvit, or of a run that was copied without it
            self.best = state.get("best") if self.run.best_file.exists() else None
            self.broken.load_state(state.get("broken", {}))
            self.unmeasured = state.get("unmeasured", False)
            self.stumbling.load_state(state.get("stumbling", {}))
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else first_line(error)
            raise InputError(f"{self.run.checkpoint_file}: not of this run's model ({reason})") from error

    def fit(self, stop: Callable[[], bool] = never, until: int | None = None) -> Evaluation:
        """Train from the current step to the last, evaluating and saving on the way.

        Args:
            stop: is asked after every step; one process's yes is enough.
            until: stop, saved, when so many steps are done; ``resume`` goes on.

        Raises:
            Interrupted: by ``stop``, after saving.
            InputError: training diverged (NaN or infinite losses), or too many training images cannot be read; the
                last checkpoint stays. Or a test image cannot be read or a loading process was killed, after saving.
        """
        notes: Sequence[str] = ()
        while True:
            try:
                return self._fit(stop, until, notes)
            except (LoadingError, Diverged) as error:
                if isinstance(error, Diverged):
                    notes = (self.stumbling.retry(error, self._go_back),)
                    continue
                if self.world.size > 1:  # the others wait for this one's next step
                    raise
                self.save()
                again = wording("resume", f"gvit train --resume {quote(str(self.run.folder))}")
                raise InputError(
                    f"{error.args[0]}. Saved at step {self.step}; go on with: {again}"
                ) from error

    def _go_back(self) -> bool:
        """To the last checkpoint, if there is one."""
        state = self.run.load_checkpoint()
        if state is not None:
            self.load(state)
        return state is not None

    def _fit(self, stop: Callable[[], bool], until: int | None, notes: Sequence[str]) -> Evaluation:
        setup, feed, schedule = self.setup, self.setup.feed, self.setup.schedule
        last = schedule.total if until is None else min(until, schedule.total)
        listening = self._listening()
        initialized = setup.config.model.init is not None
        told = tuple(notes) or setup.notes
        for observer in listening:
            observer.start(Start(schedule.total, self.step, feed.steps_per_epoch, told, initialized))
        setup.task.model.train()
        result = None
        if self.unmeasured:
            result, improved = self._evaluate_and_tell(listening)
            self.save(improved)
        started = time.perf_counter()
        for parts in feed.batches(self.step, last, setup.config.data.workers):
            number, rates = self.step, setup.rates(self.step)
            plan = self.stumbling.plan(schedule.plan(number))
            found = {one.row: one.error for part in parts for one in part.broken}
            measures = self._train_step(parts, plan, listening)
            means = self.world.mean((measures or {}) | {"broken": float(len(found))})
            if means.pop("broken"):
                self.broken.tell("train", self.world.merge(found), self.step, listening)
                self.broken.check()
            speed = feed.batch_size / (time.perf_counter() - started)
            for observer in listening if measures is not None else ():
                observer.step(Step(number + 1, self._epoch, plan, rates, means, speed))
            result, improved = None, False
            stopping = self.world.any(stop()) and self.step < last
            self.unmeasured = self.step % setup.eval_steps == 0 or self.step == schedule.total
            if self.unmeasured and not stopping:  # who stops may not wait; what goes on evaluates first
                result, improved = self._evaluate_and_tell(listening)
            if result is not None or self.step == last or stopping:
                self.save(improved)
            if stopping:
                raise Interrupted(self.step)
            started = time.perf_counter()
        return result or self._evaluate(listening)

    @property
    def _epoch(self) -> float:
        return self.step / self.setup.feed.steps_per_epoch

    def _listening(self) -> list[Observer]:
        return [JsonlObserver(self.run.metrics_file), *self.observers] if self.world.is_main else []

    def _train_step(
        self, parts: Sequence[Batch], plan: StepPlan, listening: Sequence[Observer]
    ) -> dict[str, float] | None:
        """What was measured; None where the step was skipped."""
        schedule, task = self.setup.schedule, self.setup.task
        if self.step == schedule.steps_of(plan.phase).start or not task.has_begun(plan.phase):
            with self.stumbling.diverging(self.step + 1, plan.phase):
                task.begin(plan.phase)
        try:
            measures = task.step(self.step, parts, plan, self.setup.rates(self.step))
            measures |= task.effect(self.step, parts)
        except FloatingPointError as error:
            task.drop()
            self.stumbling.skip(self.step, plan.phase, error, listening)
            self.step += 1
            return None
        self.stumbling.go_on()
        self.step += 1
        return measures

    def _evaluate_and_tell(self, listening: Sequence[Observer]) -> tuple[Evaluation, bool]:
        """The evaluation that is due, and whether it is the best so far."""
        self.unmeasured = True
        result = self._evaluate(listening)
        with self.stumbling.diverging(self.step, "evaluation"):
            motion = self.setup.task.measure_motion()
        self.unmeasured = False
        for observer in listening:
            observer.evaluation(Evaluated(self.step, self._epoch, result, motion))
        return result, self._improves(result)

    def _evaluate(self, listening: Sequence[Observer]) -> Evaluation:
        """The model, or its moving average, on all test images."""
        feed = self.setup.feed
        with self.stumbling.diverging(self.step, "evaluation"), self.world.agreed():
            shard = self.setup.task.measure(feed.test_loader)
        model = self.setup.task.model
        classes = 0 if model.card.encoder_only else model.num_classes
        measured = self.world.interleave(shard, len(feed.tests))
        rows = measured["broken"].nonzero().flatten().tolist()
        # of all processes, which have to go on alike: what could not be read, one of them may read by now
        found = self.world.merge(dict(feed.tests.errors(rows)))
        broken = [Broken(row, found.get(row, f"{feed.test.keys[row]}: could not be read")) for row in rows]
        self.broken.tell("test", dict(broken), self.step, listening)
        if broken and self.setup.config.broken.broken_test_images == "fail":
            self.save()
            raise unreadable(broken, len(feed.tests))
        return replace(summarize(measured, classes), broken=[for_python(one.error) for one in broken])

    def _improves(self, result: Evaluation) -> bool:
        """Whether it is the best so far, which is remembered; of equals, the first one is."""
        schedule = self.setup.schedule
        if not schedule.encoder_only and self.step <= schedule.classify_start:
            return False  # what its classifier answers means nothing yet
        score = getattr(result, self.setup.best_measure)
        if score is None or (self.best is not None and score <= self.best):
            return False
        self.best = score
        return True

    def save(self, improved: bool = False) -> None:
        """Write weights and a checkpoint to resume from, and the best weights anew; every process has to call it."""
        task, model = self.setup.task, self.setup.task.model
        state = {
            "name": model.card.name,
            "architecture": Architecture.of(model).to_dict(),
            "class_names": list(model.card.class_names),
            "step": self.step,
            "best": self.best,
            "images": len(self.setup.feed.train),
            "broken": self.broken.state(),
            "unmeasured": self.unmeasured,
            "stumbling": self.stumbling.state(),
            **task.state(),
        }
        if self.world.is_main:
            weights, keep = state.get("ema", state["model"]), self.setup.config.saving.keep_checkpoints
            self.run.save(state, partial(save_model, model, weights=weights), improved, keep)
        self.world.barrier()
