"""What each table and figure of the paper consists of: its rows, the paper's numbers, the paper's claims."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gvit.reproduction.jobs import CrossEvaluation, Job
from gvit.reproduction.study import Claim, Row, Study, Target, change
from gvit.training.config import GuidanceConfig, ObjectiveConfig, TrainConfig

# A guided phase's own learning rate is the recipe's over this: trained networks go on, they don't begin anew.
SLOWER = 4


def table1a(study: Study) -> Target:
    """Scale factor (paper, Table 1a)."""
    paper = {0.5: 73.4, 0.75: 74.6, 1.0: 75.2, 2.0: 73.7}
    rows = []
    for c, top1 in paper.items():
        # the recipe's own factor named is the same run
        own = c == study.scale_factor
        config = study.guided if own else change(study.guided, model={"scale_factor": c})
        rows += study.rows(f"c = {c:g}", config, study.paper(top1), c)
    claims = [
        Claim("c = 1 beats c = 0.5" + study.said("75.2 against 73.4"), "c = 1", "c = 0.5"),
        Claim("c = 1 beats c = 0.75" + study.said("75.2 against 74.6"), "c = 1", "c = 0.75"),
        Claim("c = 1 beats c = 2" + study.said("75.2 against 73.7"), "c = 1", "c = 2"),
    ]
    return Target("table1a", "Scale factor c", rows, claims, axis="c")


def table1b(study: Study) -> Target:
    """Weight of the guidance (paper, Table 1b), with no guidance beside it."""
    paper: dict[float, float | None] = {0.0: None, 0.025: 72.3, 0.05: 73.6, 0.075: 74.2, 0.1: 75.2}
    rows = []
    for gamma, top1 in paper.items():
        config = change(study.guided, schedule={"gamma": gamma}) if gamma else study.unguided
        label = f"gamma = {gamma:g}" if gamma else "no guidance"
        rows += study.rows(label, config, study.paper(top1), gamma)
    said, ours, none = study.said, "gamma = 0.1", "no guidance"
    claims = [
        Claim("gamma = 0.1 beats 0.025" + said("75.2 against 72.3"), ours, "gamma = 0.025"),
        Claim("gamma = 0.1 beats 0.05" + said("75.2 against 73.6"), ours, "gamma = 0.05"),
        Claim("gamma = 0.1 beats 0.075" + said("75.2 against 74.2"), ours, "gamma = 0.075"),
        Claim("gamma = 0.1 beats no guidance" + said("75.2 against 74.8, Table 1d"), ours, none),
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
            rows += study.rows(label, config, study.paper(top1))
    both, mse, bce = "with D-SSIM, too, BCE beats MSE", "MSE + D-SSIM", "BCE + D-SSIM"
    claims = [
        Claim("BCE beats MSE" + study.said("71.7 against 65.7"), "BCE", "MSE"),
        Claim("D-SSIM helps MSE" + study.said("69.8 against 65.7"), mse, "MSE"),
        Claim("D-SSIM helps BCE" + study.said("72.3 against 71.7"), bce, "BCE"),
        Claim(both + study.said("72.3 against 69.8"), bce, mse),
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
            top1 = study.paper(paper.get(share))
            rows += study.rows(f"{count}, {series}", sized, top1, count, series)
    few, half, most = counts[0.125], counts[0.5], counts[2.0]
    theirs = "paper: 75.1 at 1,024, 44.5 at 64; " if study.of_paper else ""
    claims = [
        Claim(
            f"more Gaussians help without guidance ({theirs}here {most} and {few})",
            f"{most}, no guidance",
            f"{few}, no guidance",
        ),
        *(
            Claim(f"guidance helps at {count} Gaussians", f"{count}, guided", f"{count}, no guidance")
            for count in counts.values()
        ),
        Claim(
            f"guided GViT with half of the Gaussians ({half}) beats the patch ViT{study.said('paper: with 256')}",
            f"{half}, guided",
            "patch ViT",
        ),
    ]
    return Target("figure3", "Number of Gaussians", rows, claims, axis="Gaussians")


def table1d(study: Study) -> Target:
    """Where the Gaussians come from (paper, Table 1d)."""
    rows = [Row("offline", study.read(study.collect(None, seed), seed), seed, 70.5) for seed in study.seeds]
    for label, config, top1 in (
        ("learned queries", study.queries, 71.4),
        (study.kind, study.unguided, study.paper(74.8)),
        (f"{study.kind}, guided", study.guided, study.paper(75.2)),
    ):
        rows += [] if config is None else study.rows(label, config, top1)
    queries = [
        Claim("learned queries beat offline fits (71.4 against 70.5)", "learned queries", "offline"),
        Claim(f"{study.kind} beats learned queries (74.8 against 71.4)", study.kind, "learned queries"),
    ]
    claims = [
        *(queries if study.queries is not None else []),
        Claim(
            f"guidance beats {study.kind} alone{study.said('75.2 against 74.8')}",
            f"{study.kind}, guided",
            study.kind,
        ),
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
            theirs = top1 if trained == tested == "SGD" else study.paper(top1)
            rows.append(Row(f"trained on {trained}, tested on {tested}", job, seed, theirs))
    claims = [
        Claim(
            f"a classifier of {one} Gaussians does better on them than on {other} ones{study.said(numbers)}",
            f"trained on {one}, tested on {one}",
            f"trained on {one}, tested on {other}",
        )
        for one, other, numbers in (
            ("SGD", "learned", "70.5 against 67.4"),
            ("learned", "SGD", "71.4 against 68.5"),
        )
    ]
    return Target("leakage", "Cross-training on fitted and on learned Gaussians", rows, claims)


def table4(study: Study) -> Target:
    """A classifier on frozen Gaussians, and one on the pictures that they draw (paper, Table 4)."""
    queries = {} if study.queries is None else {"learned queries": (study.queries, 67.6, 65.0)}
    sources: dict[str, tuple[TrainConfig | None, float | None, float | None]] = {
        "SGD": (None, 70.5, 68.5),
        **queries,
        study.kind: (study.unguided, study.paper(71.4), study.paper(70.5)),
        "guided": (study.guided, study.paper(72.1), study.paper(71.0)),
    }
    rows, claims = [], []
    for source, (config, *paper) in sources.items():
        for pictures, top1 in zip((False, True), paper, strict=True):
            label = f"{source}, {'pictures' if pictures else 'Gaussians'}"
            rows += [
                Row(label, study.read(study.collect(config, seed), seed, pictures), seed, top1)
                for seed in study.seeds
            ]
        text = f"{source}: Gaussians are read better than their pictures"
        text += "" if None in paper else f" ({paper[0]} against {paper[1]})"
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


def tokens(study: Study) -> Target:
    """Not of the paper, whose classifier reads the raw numbers: what is read of the Gaussians, without guidance."""
    rows = []
    for kind in ("raw", "canonical", "neighbours"):
        # the recipe's own kind named is the same run
        own = kind == study.tokens
        rows += study.rows(kind, study.unguided if own else change(study.unguided, model={"tokens": kind}))
    claims = [
        Claim("what is drawn is read better than the nine raw numbers", "canonical", "raw"),
        Claim("what is around a Gaussian helps", "neighbours", "canonical"),
    ]
    return Target("tokens", "What the classifier reads of the Gaussians", rows, claims, "")


def guidance(study: Study) -> Target:
    """Not of the paper: ways to guide, from the same encoder and classifier; only the last phase differs.

    Gamma, where a way has no other unit for it, is the recipe's, and so is how often a step is guided. Where the
    networks come trained, the phase has the whole learning rate and needs none of its own, and the joint gradient
    starts from them as well; else it is in use before the last phase.
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
    trained = study.base.model.init is not None
    again = {"schedule": {"guide_lr": study.base.optimizer.base_lr / SLOWER}}
    for label in () if trained else ("guided, the paper's", "added, every step", "share of the image's norm"):
        variants[f"{label}, rate of its own"] = {
            group: variants[label].get(group, {}) | again.get(group, {}) for group in ("schedule", "guidance")
        }
    rows = study.rows("no guidance", study.unguided)
    if trained:
        rows += study.rows("joint gradient", change(study.unguided, objective={"gradient": "joint"}))
    else:
        rows += study.rows("no guidance, rate of its own", change(study.unguided, **again))
    for label, settings in variants.items():
        rows += study.rows(label, change(paper, **settings))
    claims = [
        Claim(f"guidance helps: {label}", label, "no guidance" + ", rate of its own" * label.endswith("own"))
        for label in variants
        if not label.startswith("no guidance")
    ]
    claims += [
        Claim(f"it is not the added steps: {label}", label, "no guidance, a step more")
        for label, settings in variants.items()
        # all but itself, with the learning rate that it has
        if settings.get("schedule", {}).items() >= every.items()
        and "guide_lr" not in settings["schedule"]
        and label != "no guidance, a step more"
    ]
    title = "Ways to guide, from the same trained networks"
    return Target("guidance", title, rows, claims, "", against="no guidance")
