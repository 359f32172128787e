"""Steps whose numbers are not finite: they change nothing, and after too many in a row a run goes back once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from gvit.errors import InputError, first_line, option
from gvit.training.observers.base import Observer, Skipped
from gvit.training.schedule import StepPlan


class Diverged(InputError):
    """Training does not go on from where it is."""


@dataclass
class Stumbling:
    """What a run does about such steps.

    Attributes:
        most: that are skipped in a row; with one more the run has diverged.
        where: the folder that holds its last checkpoint, as messages name it.
        skipped: steps in all.
        in_a_row: of the last steps.
        gamma: factor on the weight of guidance: 1, or 1/2 since the run went back.
        guided: whether a step since the last checkpoint was.
    """

    most: int
    where: str
    skipped: int = 0
    in_a_row: int = 0
    gamma: float = 1.0
    guided: bool = False

    def plan(self, plan: StepPlan) -> StepPlan:
        """A step of the schedule, as it is guided by now."""
        self.guided = self.guided or plan.gamma > 0
        return replace(plan, gamma=plan.gamma * self.gamma)

    def go_on(self) -> None:
        """A step has been taken."""
        self.in_a_row = 0

    def skip(self, step: int, phase: str, error: FloatingPointError, listening: Sequence[Observer]) -> None:
        """Count a step that changed nothing.

        Raises:
            Diverged: it is one too many.
        """
        if self.in_a_row == self.most:
            raise self.diverged(step + 1, phase, error)
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        for observer in listening:
            observer.skipped(Skipped(step + 1, first_line(error), self.skipped))

    @contextmanager
    def diverging(self, step: int, where: str) -> Iterator[None]:
        """What is no step, and can't be left out.

        Raises:
            Diverged: numbers are not finite.
        """
        try:
            yield
        except FloatingPointError as error:
            raise self.diverged(step, where, error) from error

    def diverged(self, step: int, where: str, error: Exception) -> Diverged:
        """What there is to say of it."""
        return Diverged(
            f"training diverged at step {step} ({where}): {first_line(error)}; lower {option('base_lr')} or "
            f"{option('gamma')}. The last checkpoint in {self.where}, if there is one, is from before"
        )

    def retry(self, error: Diverged, go_back: Callable[[], bool]) -> str:
        """Have the run go back to its last checkpoint, with half of the guidance; once.

        Raises:
            Diverged: it went back before, no step since the checkpoint was guided, or there is none.
        """
        if self.gamma < 1 or not self.guided or not go_back():
            raise error
        self.gamma, self.in_a_row, self.guided = 0.5, 0, False
        return (
            f"{error.args[0].partition(';')[0]}; the run goes back to its last checkpoint, with gamma halved"
        )

    def state(self) -> dict[str, float]:
        """For a checkpoint that is written now."""
        self.guided = False
        return {"skipped": self.skipped, "in_a_row": self.in_a_row, "gamma": self.gamma}

    def load_state(self, state: dict[str, float]) -> None:
        """What ``state`` gave; of an older gvit, nothing."""
        self.skipped, self.in_a_row = int(state.get("skipped", 0)), int(state.get("in_a_row", 0))
        self.gamma = state.get("gamma", 1.0)
