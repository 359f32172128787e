"""gvit models: what can be trained, and what is trained already."""

import json
import textwrap
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from gvit.cli.parsing import parse
from gvit.errors import unknown_name


@dataclass(frozen=True)
class Options:
    """List the models, with their size and cost, and the pretrained ones.

    Tokens: the Gaussians or patches that the classifier reads.

    Parameters: in millions, the classifier's without its head for 1000 classes.

    GMACs: 1e9 multiply-adds, for one image going forward.

    Pretrained models may have other Gaussians and looks than these numbers are of.

    Example: gvit models 'vit_*'

    Attributes:
        pattern: names to list; * stands for anything.
        json: print JSON.
    """

    pattern: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATTERN")] = "*"
    json: bool = False


def run(args: list[str]) -> int:
    """Print the table."""
    options = parse(Options, args, "gvit models")

    from gvit.models.complexity import model_complexity
    from gvit.models.pretrained import find_pretrained, shipped
    from gvit.models.registry import list_models

    # 'gvit_tiny.*' is for pretrained models, told beside the model before the point
    trained = [shipped()[name] for name in list_models(options.pattern, pretrained=True)]
    if not trained and (entry := find_pretrained(options.pattern)):  # 'digits' is gvit_tiny.digits
        trained = [entry]
    names = sorted({*list_models(options.pattern), *(entry.model for entry in trained)} & {*list_models()})
    if not names:
        raise unknown_name("model", options.pattern, [*list_models(), *shipped()])
    costs = [model_complexity(name) for name in names]
    if options.json:
        tags = {name: [entry.name for entry in trained if entry.model == name] for name in names}
        print(json.dumps([asdict(cost) | {"pretrained": tags[cost.name]} for cost in costs], indent=2))
        return 0
    print(f"{'':34} {'million parameters':>25} {'GMACs':>19}")
    print(
        f"{'model':22} {'px':>4} {'tokens':>6}"
        f" {'encoder':>7} {'classifier':>10} {'head':>6} {'encoder':>8} {'classifier':>10}"
    )
    for cost in costs:
        print(
            f"{cost.name:22} {cost.img_size:4} {cost.tokens:6} {cost.encoder_parameters / 1e6:7.2f}"
            f" {cost.classifier_parameters / 1e6:10.2f} {cost.head_parameters / 1e6:6.2f}"
            f" {cost.encoder_gmacs:8.3f} {cost.classifier_gmacs:10.3f}"
        )
    if trained:
        print("\npretrained")
    for entry in trained:
        where = "" if entry.hub is None else f", from hf-hub:{entry.hub}"
        size = f"({entry.bytes / 1e6:.1f} MB{where})"
        print(*textwrap.wrap(f"{entry.name}  {entry.about} {size}", 80, subsequent_indent="  "), sep="\n")
    return 0
