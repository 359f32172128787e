"""``gvit finetune``: what it trains, how fast, and what it says."""

import json

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

import gvit
from gvit.cli import main
from gvit.recipes.transfer import finetune, transfer
from gvit.training.build import build_optimizer
from gvit.training.config import OptimizerConfig
from gvit.training.setup import set_up

QUICK = ("--dataset", "digits_5_9", "--epochs", 1, "--batch-size", 256)


def run(*args: object) -> int:
    return main(["finetune", *map(str, args)])


def fails(capsys, *args: object) -> str:
    capsys.readouterr()
    assert run(*args) == 2
    error = capsys.readouterr().err
    assert error.startswith("gvit: error: ")
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize(("mode", "still"), [("classifier", True), ("all", False)])
def test_it_trains_what_it_says_only(tmp_path, mode, still):
    out = tmp_path / "run"
    two_steps = ("--epochs", 0.2, "--batch-size", 64)
    assert run("digits", *QUICK[:2], *two_steps, "--mode", mode, "--out", out) == 0
    before, after = gvit.load_model("digits"), gvit.load_model(out)
    same = {n: torch.equal(v, after.encoder.state_dict()[n]) for n, v in before.encoder.state_dict().items()}
    assert all(same.values()) if still else not all(same.values())
    ours, theirs = after.classifier.state_dict(), before.classifier.state_dict()
    assert not torch.equal(ours["blocks.0.attn.qkv.weight"], theirs["blocks.0.attn.qkv.weight"])
    assert list(after.card.class_names) == list("56789")
    assert after.card.preprocessing == before.card.preprocessing
    assert json.loads((out / "config.json").read_text())["schedule"]["freeze_encoder"] is still


def test_the_rates_of_layers_are_those_of_timm():
    """Of a ViT of timm's own, and by the formula: decay to the power of the layers above."""
    config = finetune("digits")
    decay = config.optimizer.layer_decay
    network = gvit.load_model("digits").classifier
    optimizer = build_optimizer(network, OptimizerConfig(), decay)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    ours = {names[id(p)]: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    depth = len(network.blocks)
    like = timm.create_model("vit_tiny_patch16_224", depth=depth, num_classes=10)
    named = {id(parameter): name for name, parameter in like.named_parameters()}
    theirs = {
        named[id(p)]: group["lr_scale"]
        for group in param_groups_layer_decay(like, layer_decay=decay)
        for p in group["params"]
    }
    assert len(set(ours.values())) == depth + 2
    for name, scale in ours.items():
        if name.startswith("blocks."):
            assert scale == theirs[name] == pytest.approx(decay ** (depth - int(name.split(".")[1])))
        else:
            assert scale == (1.0 if name.startswith(("head", "norm", "fc_norm")) else decay ** (depth + 1)), (
                name
            )
    assert (theirs["cls_token"], theirs["head.weight"]) == (ours["cls_token"], ours["head.weight"])


def test_a_step_takes_the_rate_of_its_layer():
    config = finetune("digits")
    setup = set_up(
        config.__class__(
            model=config.model, data=config.data.__class__("digits_5_9"), schedule=config.schedule,
            objective=config.objective, optimizer=config.optimizer,
        )
    )  # fmt: skip
    rates = setup.rates(10)
    assert list(rates) == ["classifier"]  # the encoder has none
    setup.task._optimize(rates, {"classifier": torch.ones(())})
    taken = {group["lr"] for group in setup.task.optimizers["classifier"].param_groups}
    depth = len(setup.task.model.classifier.blocks)
    assert taken == {rates["classifier"] * config.optimizer.layer_decay**i for i in range(depth + 2)}


def test_the_papers_values_by_name(capsys):
    config = finetune("digits", data="cub", size="b")
    paper = transfer("cub", "b")
    assert (config.optimizer, config.data, config.schedule) == (paper.optimizer, paper.data, paper.schedule)
    few = ("--dataset", "digits_5_9", "--workers", 0, "--dry-run")
    assert run("digits", "--recipe", "flowers", "--batch-size", 64, *few) == 0
    assert "layer_decay=0.65" in capsys.readouterr().out  # of a small ViT
    assert run("photos", "--batch-size", 4, *few) == 0
    told = capsys.readouterr().out
    assert "classifier new" in told
    assert "layer_decay" not in told


def test_bad_input_is_one_line(capsys, tmp_path):
    assert "missing RUN" in fails(capsys)
    assert "nearest: cub" in fails(capsys, "digits", "--recipe", "cubs")
    assert "--mode must be one of all, classifier, got none" in fails(capsys, "digits", "--mode", "none")
    assert "unknown pretrained model 'digts'; nearest: digits" in fails(capsys, "digts", *QUICK)
    assert "needs --data-dir FOLDER" in fails(capsys, "digits", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
