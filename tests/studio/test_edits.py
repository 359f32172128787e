"""What a hand does to Gaussians, against what it means in pixels."""

import math

import pytest
import torch

from gvit.gaussians import Gaussians
from gvit.studio import edits

HEIGHT, WIDTH = 40, 80


@pytest.fixture
def gaussians():
    torch.manual_seed(0)
    return Gaussians(0.3 * torch.randn(6, 9), scale_factor=3.0, nominal_count=6, aspect=HEIGHT / WIDTH)


CHOSEN = torch.tensor([True, False, True, False, False, True])


def in_pixels(gaussians):
    return gaussians.in_pixels(HEIGHT, WIDTH)


def test_moves_are_in_pixels(gaussians):
    moved = edits.move(gaussians, CHOSEN, 3.0, -2.0, HEIGHT, WIDTH)
    shift = torch.where(CHOSEN[:, None], torch.tensor([3.0, -2.0]), 0.0)
    torch.testing.assert_close(in_pixels(moved)[0], in_pixels(gaussians)[0] + shift, atol=1e-4, rtol=0)


def test_what_is_pushed_off_the_canvas_stays_at_its_border(gaussians, recwarn):
    moved = edits.move(gaussians, CHOSEN, 1000.0, 0.0, HEIGHT, WIDTH)
    torch.testing.assert_close(
        in_pixels(moved)[0][CHOSEN, 0], torch.full((3,), float(WIDTH)), atol=1e-3, rtol=0
    )
    assert not recwarn.list


def test_scaling_and_turning_is_about_the_middle_of_what_is_chosen(gaussians):
    changed = edits.turn_and_scale(gaussians, CHOSEN, 0.5, 90.0)
    before, after = in_pixels(gaussians), in_pixels(changed)
    middle = before[0][CHOSEN].mean(0)
    # x right, y down: a quarter turn clockwise takes (x, y) to (-y, x)
    turn = torch.tensor([[0.0, -0.5], [0.5, 0.0]])
    expected = middle + (before[0][CHOSEN] - middle) @ turn.T
    torch.testing.assert_close(after[0][CHOSEN], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(after[1][CHOSEN], turn @ before[1][CHOSEN] @ turn.T, atol=1e-3, rtol=1e-3)


def test_what_is_scaled_off_the_canvas_stays_at_its_border(gaussians, recwarn):
    changed = edits.turn_and_scale(gaussians, CHOSEN, 100.0, 0.0)
    torch.testing.assert_close(changed.opacities, gaussians.opacities)
    centers = in_pixels(changed)[0][CHOSEN]
    assert torch.minimum(centers, torch.tensor([WIDTH, HEIGHT]) - centers).abs().max() < 1e-3
    assert not recwarn.list


def test_one_gaussian_turns_in_its_place(gaussians):
    one = torch.arange(6) == 4
    changed = edits.turn_and_scale(gaussians, one, 1.0, 30.0)
    torch.testing.assert_close(changed.centers, gaussians.centers, atol=1e-6, rtol=0)
    assert (changed.angles - gaussians.angles)[4].item() == pytest.approx(math.radians(30), abs=1e-4)


def test_colours_and_opacities_are_set(gaussians):
    changed = edits.fade(edits.paint(gaussians, CHOSEN, (1.0, 0.25, 0.0)), CHOSEN, 0.5)
    torch.testing.assert_close(
        changed.colors[CHOSEN], torch.tensor([1.0, 0.25, 0.0]).expand(3, 3), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(changed.opacities[CHOSEN], torch.full((3,), 0.5))


@pytest.mark.parametrize(
    "edit",
    [
        lambda g, chosen: edits.move(g, chosen, 1.0, 1.0, HEIGHT, WIDTH),
        lambda g, chosen: edits.turn_and_scale(g, chosen, 1.5, 10.0),
        lambda g, chosen: edits.paint(g, chosen, (0.0, 0.0, 1.0)),
        lambda g, chosen: edits.fade(g, chosen, 0.1),
    ],
    ids=["move", "transform", "paint", "fade"],
)
def test_the_others_stay_bit_by_bit(gaussians, edit):
    changed = edit(gaussians, CHOSEN)
    assert torch.equal(changed.raw[~CHOSEN], gaussians.raw[~CHOSEN])
    assert not torch.isclose(changed.raw[CHOSEN], gaussians.raw[CHOSEN]).all(-1).any()
    assert torch.equal(edit(gaussians, torch.zeros(6, dtype=torch.bool)).raw, gaussians.raw)
