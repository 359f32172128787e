"""CUDA graphs of an encoder's turns; without a GPU, by a stand-in that reuses memory as a graph does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gvit.data.loading import Batch
from gvit.recipes import debug
from gvit.training.config import GuidanceConfig, TrainConfig
from gvit.training.graphs import _MOST, GraphedTurns
from gvit.training.setup import set_up
from gvit.training.task import GuidedTask


class Replayed(torch.autograd.Function):
    """Outputs in the same memory at every call, gradients of the module's parameters as a graph gives them."""

    @staticmethod
    def forward(ctx, record, *tensors):
        turn, inputs, outputs, parameters = record
        for own, given in zip(inputs, tensors[: len(inputs)], strict=True):
            own.copy_(given)
        with torch.enable_grad():
            computed = turn(*inputs)
        for own, found in zip(outputs, computed, strict=True):
            own.copy_(found.detach())
        ctx.computed, ctx.parameters, ctx.count = computed, parameters, len(inputs)
        return tuple(output.detach() for output in outputs)

    @staticmethod
    def backward(ctx, grad, *_):
        found = torch.autograd.grad(ctx.computed[0], ctx.parameters, grad)
        return (None, *[None] * ctx.count, *found)


def graphed(turn: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[..., tuple[Tensor, ...]]:
    parameters = list(turn.parameters())
    outputs = [torch.empty_like(tensor) for tensor in turn(*inputs)]
    record = (turn, inputs, outputs, parameters)
    return lambda *tensors: Replayed.apply(record, *tensors, *parameters)


def looking() -> TrainConfig:
    config = debug()
    return replace(
        config,
        model=replace(config.model, encoder="refining", looks=3, tokens="neighbours"),
        guidance=GuidanceConfig(psnr_budget=1.0),
    )


def task() -> GuidedTask:
    made = set_up(looking()).task
    assert isinstance(made, GuidedTask)
    return made


def batch(size: int, seed: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 3, 32, 32, generator=random)
    return Batch(images, torch.randint(10, (size,), generator=random), torch.zeros(size, 16, 9))


def train(made: GuidedTask, sizes: list[int]) -> dict[str, Tensor]:
    setup = set_up(debug())
    step = setup.schedule.steps_of("guide").start
    plan = replace(setup.schedule.plan(step), added=True)  # the last turn again, from where it came from
    made.begin("guide")  # what pictures have cost is measured from here on
    for number, size in enumerate(sizes):
        made.step(step + number, [batch(size, number)], plan, {"encoder": 1e-2, "classifier": 1e-2})
    return made.model.state_dict()


def test_replayed_turns_train_as_ever(monkeypatch):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    ever, replayed = task(), task()
    encoder = GraphedTurns(replayed.model.encoder)
    replayed.objective.encoder = encoder
    replayed.guidance.called = GraphedTurns
    sizes = [4, 4, 3, 4]
    expected, found = train(ever, sizes), train(replayed, sizes)
    assert len(encoder.recorded) == 2  # one for each size of a batch
    assert len(replayed.guidance.draw_start.recorded) == 2
    assert replayed.guidance.factor == pytest.approx(ever.guidance.factor)
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, msg=name)


def test_there_is_an_end_to_the_graphs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    made = task()
    encoder = GraphedTurns(made.model.encoder)
    made.objective.encoder = encoder
    train(made, list(range(2, 2 + _MOST + 2)))
    assert len(encoder.recorded) == _MOST


def test_a_prediction_is_not_recorded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda *args: pytest.fail("recorded"))
    encoder = task().model.encoder
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = encoder(images)
        assert torch.equal(GraphedTurns(encoder)(images), expected)
        state = encoder.begin(images)
        assert torch.equal(GraphedTurns(encoder)(images, None, state).raw, encoder(images, None, state).raw)


def test_what_learns_nothing_draws_all_of_its_turns_by_one_recording(monkeypatch):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    encoder = task().model.encoder.requires_grad_(False)
    calls, images = GraphedTurns(encoder), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(calls(images), encoder(images))
        for turns in (0, 2):
            torch.testing.assert_close(calls(images, turns=turns), encoder(images, turns=turns))
    assert len(calls.recorded) == 1


def test_a_run_on_the_cpu_says_that_graphs_have_no_effect():
    config = debug()
    assert not any("graphs" in note for note in set_up(config).notes)
    setup = set_up(replace(config, compute=replace(config.compute, graphs=True)))
    (note,) = (note for note in setup.notes if "graphs" in note)
    assert "has no effect: it is for one GPU" in note


def test_a_run_that_graphs_would_make_faster_says_so(monkeypatch):
    monkeypatch.setattr(GuidedTask, "can_be_graphed", True)
    (note,) = (note for note in set_up(looking()).notes if "graphs" in note)
    assert note == "graphs=True is faster here: a look of the encoder becomes one CUDA graph"


@pytest.mark.parametrize("frozen", [False, True])
def test_an_encoder_that_stands_still_has_no_turns_to_record(frozen):
    config, phases = looking(), {"reconstruct_epochs": 0.0, "perceptual_epochs": 0.0, "guide_epochs": 0.0}
    schedule = replace(config.schedule, freeze_encoder=True, **phases if frozen else {})
    made = set_up(replace(config, schedule=schedule)).task
    made.device = torch.device("cuda")
    assert made.can_be_graphed != frozen


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_graphs_on_a_gpu_train_as_ever():
    config = looking()
    weights, factors = [], []
    for graphs in (False, True):
        made = set_up(replace(config, compute=replace(config.compute, graphs=graphs)), "cuda").task
        weights.append(train(made, [4, 4, 3, 4]))
        factors.append(made.guidance.factor)
        recorded = made.graphs["encoder"].recorded if graphs else {}
        assert len(recorded) == 2 * graphs
        assert not graphs or len(made.guidance.draw_start.recorded) == 2
    assert factors[1] == pytest.approx(factors[0], rel=1e-2)
    for name, one in weights[0].items():
        torch.testing.assert_close(weights[1][name], one, rtol=1e-3, atol=1e-3, msg=name)
