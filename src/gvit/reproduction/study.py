"""What a table or figure is: rows to be trained, the paper's numbers and claims, and the recipe that they vary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gvit.errors import InputError, option
from gvit.models.registry import Entry, registered
from gvit.reproduction.jobs import Collection, Job, Training, architecture_of, tokens
from gvit.training.config import GuidanceConfig, TrainConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MINI = "mini-ImageNet-100"


@dataclass(frozen=True)
class Row:
    """One setting with one seed.

    Attributes:
        label: of the setting; rows with the same label are one line of the table.
        job: whose result is the row's.
        seed: of everything random.
        paper: the paper's top-1, %.
        x: place on a plot's axis, for a target that has one.
        series: curve on the plot that the row belongs to.
    """

    label: str
    job: Job
    seed: int
    paper: float | None = None
    x: float | None = None
    series: str = ""


@dataclass(frozen=True)
class Claim:
    """That one row's top-1 is above another's.

    Attributes:
        text: in words, with the paper's numbers.
        better: label of the one row.
        worse: label of the other.
    """

    text: str
    better: str
    worse: str


@dataclass(frozen=True)
class Measured:
    """A number that is not a row's accuracy.

    Attributes:
        text: what it is.
        values: of every seed.
    """

    text: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Target:
    """A table or figure.

    Attributes:
        name: for the command line.
        title: what is compared.
        rows: all settings with all seeds.
        claims: what the paper says about them.
        paper_data: where the paper's numbers are from.
        axis: what is on the plot's axis; empty for a line per label.
        against: label of the setting that the table compares every other one with; empty for none.
        picture: draws it when the jobs are done, and measures what belongs to it, on the named device; None for a
            plot of the rows.
    """

    name: str
    title: str
    rows: Sequence[Row]
    claims: Sequence[Claim]
    paper_data: str = MINI
    axis: str = ""
    picture: Callable[[str], tuple[Figure, list[Measured]]] | None = None
    against: str = ""

    def choose(self, labels: Sequence[str]) -> Target:
        """The same with these settings alone, in the table's order, and with the claims about them.

        Raises:
            InputError: there is no such setting, or the target is a picture of all of them.
        """
        if self.picture is not None:
            raise InputError(f"{self.name} is a picture of all of its rows; leave out {option('rows')}")
        known = dict.fromkeys(row.label for row in self.rows)
        if unknown := [label for label in labels if label not in known]:
            raise InputError(
                f"{self.name} has no row {unknown[0]!r}; its rows are {', '.join(map(repr, known))}"
            )
        return replace(
            self,
            rows=[row for row in self.rows if row.label in labels],
            claims=[claim for claim in self.claims if {claim.better, claim.worse} <= set(labels)],
            against=self.against if self.against in labels else "",
        )


@dataclass(frozen=True)
class Study:
    """The recipe that a target varies.

    Attributes:
        base: guided GViT, with the budget of the study.
        seeds: of the repetitions.
        store: folder of all runs.
        transfer_dir: holds a folder for each data set to transfer to, named as their recipes.
    """

    base: TrainConfig
    seeds: Sequence[int]
    store: Path
    transfer_dir: Path | None = None

    @property
    def kind(self) -> str:
        """The base's kind of encoder."""
        encoder = architecture_of(self.base).encoder
        assert encoder is not None
        return encoder["kind"]

    @property
    def of_paper(self) -> bool:
        """Whether the base's encoder is the paper's, which has no other that learns to draw."""
        return self.kind == "denoising"

    def paper(self, number: float | None) -> float | None:
        """One of the paper's about its encoder; None beside another."""
        return number if self.of_paper else None

    def said(self, numbers: str) -> str:
        """What the paper measured with its encoder, behind a claim; nothing beside another."""
        return f" ({numbers})" if self.of_paper else ""

    @property
    def scale_factor(self) -> float:
        """The bound on the base's Gaussians."""
        return tokens(self.base)["scale_factor"]

    @property
    def num_gaussians(self) -> int:
        return tokens(self.base)["num_gaussians"]

    @property
    def tokens(self) -> str:
        """The kind of tokens that the base's classifier reads."""
        return tokens(self.base)["kind"]

    @property
    def entry(self) -> Entry:
        """The base's model, and those that it is compared with."""
        assert self.base.model.model is not None
        return registered(self.base.model.model)

    def train(self, config: TrainConfig, seed: int, *needs: Job) -> Training:
        return Training.of(self.store, replace(config, seed=seed), *needs)

    @property
    def guided(self) -> TrainConfig:
        return self.base

    @property
    def unguided(self) -> TrainConfig:
        """The same phases, the last one without guided steps: what moves in it moves by itself."""
        config = change(self.base, schedule={"guided_steps": "none"})
        return replace(config, guidance=GuidanceConfig())

    @property
    def patches(self) -> TrainConfig:
        """The patch ViT of the classifier's size, in the same steps."""
        return change(self.unguided, model={"model": self.entry.patches})

    @property
    def queries(self) -> TrainConfig | None:
        """Learned queries instead of the recipe's encoder, without guidance; None where it is not the paper's.

        The recipes of another encoder have neither the size nor the phases for the paper's two.
        """
        return change(self.unguided, model={"encoder": "queries"}) if self.of_paper else None

    def collect(self, source: TrainConfig | None, seed: int) -> Collection:
        """The Gaussians that a training's encoder makes of every image, or fits of every image for None."""
        training = None if source is None else self.train(source, seed)
        return Collection.of(self.store, self.base, training)

    def read(self, collection: Collection, seed: int, pictures: bool = False) -> Training:
        """A classifier of the model's size on frozen Gaussians, or on the pictures that they draw."""
        config = self.patches
        if not pictures:
            model = {"model": self.entry.frozen, "num_gaussians": self.num_gaussians}
            config = change(config, model=model)
        # what is frozen has been cropped
        data = {"dataset": "gaussians", "data_dir": collection.data_dir, "crop_mode": "squash"}
        return self.train(change(config, data=data), seed, collection)

    def rows(
        self,
        label: str,
        config: TrainConfig,
        paper: float | None = None,
        x: float | None = None,
        series: str = "",
    ) -> list[Row]:
        """A training with every seed."""
        return [Row(label, self.train(config, seed), seed, paper, x, series) for seed in self.seeds]


def change(config: TrainConfig, **groups: dict[str, Any]) -> TrainConfig:
    """A configuration with other values: ``change(config, schedule={"gamma": 0.05})``."""
    changed = {name: replace(getattr(config, name), **values) for name, values in groups.items()}
    return replace(config, **changed)
