"""What each table and figure of the paper consists of: rows to be trained, the paper's numbers, the paper's claims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gvit.errors import InputError, option
from gvit.models.registry import Entry, registered
from gvit.reproduction.jobs import Collection, CrossEvaluation, Job, Training, architecture_of, tokens
from gvit.training.config import GuidanceConfig, ObjectiveConfig, TrainConfig

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
    def num_gaussians(self) -> int:
        return tokens(self.base)["num_gaussians"]

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
        return change(self.unguided, model={"encoder": "queries"}) if self.kind == "denoising" else None

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


def table1a(study: Study) -> Target:
    """Scale factor (paper, Table 1a)."""
    paper = {0.5: 73.4, 0.75: 74.6, 1.0: 75.2, 2.0: 73.7}
    rows = []
    for c, top1 in paper.items():
        rows += study.rows(f"c = {c:g}", change(study.guided, model={"scale_factor": c}), top1, c)
    claims = [
        Claim("c = 1 beats c = 0.5 (75.2 against 73.4)", "c = 1", "c = 0.5"),
        Claim("c = 1 beats c = 0.75 (75.2 against 74.6)", "c = 1", "c = 0.75"),
        Claim("c = 1 beats c = 2 (75.2 against 73.7)", "c = 1", "c = 2"),
    ]
    return Target("table1a", "Scale factor c", rows, claims, axis="c")


def table1b(study: Study) -> Target:
    """Weight of the guidance (paper, Table 1b), with no guidance beside it."""
    paper: dict[float, float | None] = {0.0: None, 0.025: 72.3, 0.05: 73.6, 0.075: 74.2, 0.1: 75.2}
    rows = []
    for gamma, top1 in paper.items():
        config = change(study.guided, schedule={"gamma": gamma}) if gamma else study.unguided
        label = f"gamma = {gamma:g}" if gamma else "no guidance"
        rows += study.rows(label, config, top1, gamma)
    claims = [
        Claim("gamma = 0.1 beats 0.025 (75.2 against 72.3)", "gamma = 0.1", "gamma = 0.025"),
        Claim("gamma = 0.1 beats 0.05 (75.2 against 73.6)", "gamma = 0.1", "gamma = 0.05"),
        Claim("gamma = 0.1 beats 0.075 (75.2 against 74.2)", "gamma = 0.1", "gamma = 0.075"),
        Claim("gamma = 0.1 beats no guidance (75.2 against 74.8, Table 1d)", "gamma = 0.1", "no guidance"),
    ]
    return Target("table1b", "Weight gamma of the guidance", rows, claims, axis="gamma")


def table1c(study: Study) -> Target:
    """Reconstruction loss (paper, Table 1c)."""
    paper = {"mse": (65.7, 69.8), "bce": (71.7, 72.3)}
    rows = []
    weighed = study.base.objective.perceptual_weight or ObjectiveConfig().perceptual_weight
    for loss, numbers in paper.items():
        for weight, top1 in zip((0.0, weighed), numbers, strict=True):
            config = change(study.guided, objective={"pixel_loss": loss, "perceptual_weight": weight})
            label = loss.upper() + (" + D-SSIM" if weight else "")
            rows += study.rows(label, config, top1)
    claims = [
        Claim("BCE beats MSE (71.7 against 65.7)", "BCE", "MSE"),
        Claim("D-SSIM helps MSE (69.8 against 65.7)", "MSE + D-SSIM", "MSE"),
        Claim("D-SSIM helps BCE (72.3 against 71.7)", "BCE + D-SSIM", "BCE"),
        Claim("with D-SSIM, too, BCE beats MSE (72.3 against 69.8)", "BCE + D-SSIM", "MSE + D-SSIM"),
    ]
    return Target("table1c", "Reconstruction loss", rows, claims)


def figure3(study: Study) -> Target:
    """Number of Gaussians, with and without guidance, beside the patch ViT (paper, Figure 3).

    The paper's 64 to 1,024 are an eighth to twice the models' 512; here, the same shares of the recipe's number.
    """
    # the only values that the paper's text names
    unguided, guided = {0.125: 44.5, 2.0: 75.1}, {1.5: 78.7}
    rows = study.rows("patch ViT", study.patches, series="patch ViT")
    counts = {
        share: max(1, round(share * study.num_gaussians)) for share in (0.125, 0.25, 0.5, 1.0, 1.5, 2.0)
    }
    for series, config, paper in (
        ("no guidance", study.unguided, unguided),
        ("guided", study.guided, guided),
    ):
        for share, count in counts.items():
            # the recipe's own number named is the same run
            sized = config if share == 1.0 else change(config, model={"num_gaussians": count})
            rows += study.rows(f"{count}, {series}", sized, paper.get(share), count, series)
    few, half, most = counts[0.125], counts[0.5], counts[2.0]
    claims = [
        Claim(f"more Gaussians help without guidance (paper: 75.1 at 1,024, 44.5 at 64; here {most} and {few})",
              f"{most}, no guidance", f"{few}, no guidance"),
        *(
            Claim(f"guidance helps at {count} Gaussians", f"{count}, guided", f"{count}, no guidance")
            for count in counts.values()
        ),
        Claim(f"guided GViT with half of the Gaussians ({half}) beats the patch ViT (paper: with 256)",
              f"{half}, guided", "patch ViT"),
    ]  # fmt: skip
    return Target("figure3", "Number of Gaussians", rows, claims, axis="Gaussians")


def table1d(study: Study) -> Target:
    """Where the Gaussians come from (paper, Table 1d)."""
    rows = [Row("offline", study.read(study.collect(None, seed), seed), seed, 70.5) for seed in study.seeds]
    for label, config, top1 in (
        ("learned queries", study.queries, 71.4),
        (study.kind, study.unguided, 74.8),
        (f"{study.kind}, guided", study.guided, 75.2),
    ):
        rows += [] if config is None else study.rows(label, config, top1)
    queries = [
        Claim("learned queries beat offline fits (71.4 against 70.5)", "learned queries", "offline"),
        Claim(f"{study.kind} beats learned queries (74.8 against 71.4)", study.kind, "learned queries"),
    ]
    claims = [
        *(queries if study.queries is not None else []),
        Claim(f"guidance beats {study.kind} alone (75.2 against 74.8)", f"{study.kind}, guided", study.kind),
    ]
    return Target("table1d", "Where the Gaussians come from", rows, claims)


def leakage(study: Study) -> Target:
    """Classifiers on fitted and on learned Gaussians, each tested on both (paper, Section 3.2, Experiment 1)."""
    paper = {
        ("SGD", "SGD"): 70.5,
        ("SGD", "learned"): 67.4,
        ("learned", "learned"): 71.4,
        ("learned", "SGD"): 68.5,
    }
    rows = []
    for (trained, tested), top1 in paper.items():
        for seed in study.seeds:
            kinds = {"SGD": study.collect(None, seed), "learned": study.collect(study.guided, seed)}
            training = study.read(kinds[trained], seed)
            job: Job = training
            if tested != trained:
                job = CrossEvaluation.of(study.store, training, kinds[tested])
            rows.append(Row(f"trained on {trained}, tested on {tested}", job, seed, top1))
    claims = [
        Claim(f"a classifier of {one} Gaussians does better on them than on {other} ones ({numbers})",
              f"trained on {one}, tested on {one}", f"trained on {one}, tested on {other}")
        for one, other, numbers in (("SGD", "learned", "70.5 against 67.4"), ("learned", "SGD", "71.4 against 68.5"))
    ]  # fmt: skip
    return Target("leakage", "Cross-training on fitted and on learned Gaussians", rows, claims)


def table4(study: Study) -> Target:
    """A classifier on frozen Gaussians, and one on the pictures that they draw (paper, Table 4)."""
    queries = {} if study.queries is None else {"learned queries": (study.queries, 67.6, 65.0)}
    sources: dict[str, tuple[TrainConfig | None, float, float]] = {
        "SGD": (None, 70.5, 68.5),
        **queries,
        study.kind: (study.unguided, 71.4, 70.5),
        "guided": (study.guided, 72.1, 71.0),
    }
    rows, claims = [], []
    for source, (config, *paper) in sources.items():
        for pictures, top1 in zip((False, True), paper, strict=True):
            label = f"{source}, {'pictures' if pictures else 'Gaussians'}"
            rows += [
                Row(label, study.read(study.collect(config, seed), seed, pictures), seed, top1)
                for seed in study.seeds
            ]
        text = f"{source}: Gaussians are read better than their pictures ({paper[0]} against {paper[1]})"
        claims.append(Claim(text, f"{source}, Gaussians", f"{source}, pictures"))
    return Target("table4", "Frozen Gaussians against the pictures that they draw", rows, claims)


def comparison(study: Study) -> Target:
    """Not of the paper: what everything else has to be read beside."""
    settings = {
        "patch ViT": study.patches,
        "GViT, no guidance": study.unguided,
        "GViT, guided": study.guided,
        "GViT, joint": change(study.unguided, objective={"gradient": "joint"}),
    }
    rows = [row for label, config in settings.items() for row in study.rows(label, config)]
    claims = [
        Claim("guidance helps", "GViT, guided", "GViT, no guidance"),
        Claim("guidance beats the joint gradient", "GViT, guided", "GViT, joint"),
        Claim("the patch ViT beats guided GViT (paper, ImageNet-1k, ViT-S: 77.5 against 72.4)",
              "patch ViT", "GViT, guided"),
    ]  # fmt: skip
    return Target("comparison", "GViT beside the patch ViT of the same size", rows, claims, "")


def guidance(study: Study) -> Target:
    """Not of the paper: ways to guide, from the same encoder and classifier; only the last phase differs.

    Gamma, where a way has no other unit for it, is the recipe's, and so is how often a step is guided.
    """
    paper = change(replace(study.guided, guidance=GuidanceConfig()), schedule={"guided_steps": "replacing"})
    every = {"guided_steps": "added", "guide_every": 1}
    variants: dict[str, dict[str, dict[str, Any]]] = {
        # the encoder's optimizer steps of "added, every step", by the reconstruction alone
        "no guidance, a step more": {"schedule": every | {"gamma": 0.0}},
        "guided, the paper's": {},
        "added": {"schedule": {"guided_steps": "added"}},
        "added, every step": {"schedule": every},
        "share of the batch's norm": {"schedule": {"gamma": 1.0}, "guidance": {"gamma_unit": "batch"}},
        "share of the image's norm": {"schedule": {"gamma": 1.0}, "guidance": {"gamma_unit": "image"}},
        "share of each Gaussian's norm": {"schedule": {"gamma": 1.0}, "guidance": {"gamma_unit": "gaussian"}},
        "no conflict, per image": {"guidance": {"projection": "image"}},
        "no conflict, per Gaussian": {"guidance": {"projection": "gaussian"}},
        "averaged classifier": {"guidance": {"guide_ema": 0.99}},
        "at most 0.5 dB": {"guidance": {"psnr_budget": 0.5}},
        "every step, share, no conflict": {
            "schedule": every | {"gamma": 0.5},
            "guidance": {"gamma_unit": "image", "projection": "image"},
        },
        "every step, averaged, at most 0.5 dB": {
            "schedule": every,
            "guidance": {"guide_ema": 0.99, "psnr_budget": 0.5},
        },
        "every step, averaged, at most 2 dB": {
            "schedule": every,
            "guidance": {"guide_ema": 0.99, "psnr_budget": 2.0},
        },
    }
    again = {"schedule": {"guide_lr": study.base.optimizer.base_lr / 4}}
    for label in ("guided, the paper's", "added, every step", "share of the image's norm"):
        variants[f"{label}, rate of its own"] = {
            group: variants[label].get(group, {}) | again.get(group, {}) for group in ("schedule", "guidance")
        }
    rows = study.rows("no guidance", study.unguided)
    rows += study.rows("no guidance, rate of its own", change(study.unguided, **again))
    for label, settings in variants.items():
        rows += study.rows(label, change(paper, **settings))
    claims = [
        Claim(f"guidance helps: {label}", label, "no guidance" + ", rate of its own" * label.endswith("own"))
        for label in variants
        if not label.startswith("no guidance")
    ]
    more = "added, every step"
    claims.append(Claim(f"it is not the added steps: {more}", more, "no guidance, a step more"))
    title = "Ways to guide, from the same trained networks"
    return Target("guidance", title, rows, claims, "", against="no guidance")
