"""The encoder that looks at its own picture."""

import math
from dataclasses import replace

import jaxtyping
import pytest
import torch

import gvit
from gvit.gaussians import Gaussians
from gvit.losses import psnr
from gvit.models.encoder import RefiningEncoder
from gvit.models.encoder.anchors import anchors, coarse
from gvit.models.encoder.refining import _Frame


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(2, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(small, 32, mode="bicubic").clamp(0, 1)


def encoder(**kwargs) -> RefiningEncoder:
    torch.manual_seed(0)
    return RefiningEncoder(img_size=32, **{"num_gaussians": 16, "embed_dim": 24, "looks": 3} | kwargs)


def awake(network: RefiningEncoder) -> RefiningEncoder:
    torch.nn.init.normal_(network.head.weight, std=0.05)
    return network


@pytest.mark.parametrize("shape", [(32, 64), (48, 48), (64, 32)])
@pytest.mark.parametrize("count", [1, 2, 16, 17, 100, 1000])
def test_anchors_are_spread_evenly_where_nothing_is_more_detailed(count, shape):
    aspect = shape[0] / shape[1]
    flat = torch.full((1, 3, *shape), 0.3)
    noisy = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    places, cells = anchors(flat, count, 0.7)
    torch.testing.assert_close(anchors(noisy, count, 0.0), (places, cells), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(cells.prod(-1), torch.ones(1, count), rtol=1e-3, atol=1e-3)
    assert places.shape == (1, count, 2)
    assert places.abs().max() < 1
    if count >= 16:  # nearest neighbours are about a spacing apart, in pixels
        points = places[0] * torch.tensor([1.0, aspect])
        nearest = torch.cdist(points, points).fill_diagonal_(9).amin(1)
        spacing = 2 * math.sqrt(aspect / count)
        assert 0.7 * spacing < nearest.min() <= nearest.max() < 1.3 * spacing


@pytest.mark.parametrize("count", [64, 67])  # rows of 8; some of 9
def test_cells_fill_the_canvas_and_hold_equally_much_detail(count):
    generator = torch.Generator().manual_seed(0)
    image = torch.full((1, 3, 64, 64), 0.5)
    image[..., :32, :32] = torch.rand(3, 32, 32, generator=generator)  # a quarter of it is busy
    places, cells = anchors(image, count, 0.7)
    assert places.shape == cells.shape == (1, count, 2)
    assert places.abs().max() < 1
    area = cells.prod(-1)  # in units of an even cell's
    assert area.sum().item() == pytest.approx(count, rel=1e-3)
    busy = (places < 0).all(-1)
    # all of the detail, 0.7 of the weight, and a quarter of the area; bands are of the whole width
    assert busy.float().mean().item() == pytest.approx(0.7 + 0.3 / 4, abs=0.15)
    assert area[busy].mean() < 0.6 < 1.5 < area[~busy].mean()


def test_places_of_an_image_do_not_depend_on_its_batch():
    images = torch.rand(3, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    together, _ = anchors(images, 12, 0.7)
    alone, _ = anchors(images[1:2], 12, 0.7)
    torch.testing.assert_close(together[1:2], alone)


def test_coarse_pictures_have_about_six_pixels_between_gaussians():
    picture = torch.rand(1, 3, 96, 144)
    assert coarse(picture, 400) is picture  # 6 pixels apart
    assert coarse(torch.rand(1, 3, 3, 200), 1).shape[-2:] == (1, 50)
    small = coarse(picture, 16)  # 29 pixels apart
    assert small.shape[-2:] == (19, 28)
    torch.testing.assert_close(small.mean(), picture.mean(), rtol=0.05, atol=0.0)


def test_a_new_encoder_draws_the_colours_of_the_image_on_a_grid(images):
    raw = encoder(detail=0.0)(images)
    torch.testing.assert_close(raw[..., :2].tanh(), anchors(images, 16, 0.0)[0])
    blocks = torch.nn.functional.avg_pool2d(images, 8).flatten(2).mT
    assert (raw[..., 5:8].sigmoid() - blocks).abs().mean() < 0.05
    drawn = gvit.render(encoder().gaussians(raw), 32, 32)
    grey = torch.full_like(images, 0.5)
    assert (psnr(drawn, images) > psnr(grey, images)).all()


def test_all_looks_are_the_turns_one_after_the_other(images):
    network = awake(encoder())
    state = network.begin(images)
    for _ in range(3):
        state = network(images, state=state)
    torch.testing.assert_close(network(images), state.raw)
    assert not torch.allclose(network(images), network.begin(images).raw, atol=1e-2)


def test_a_state_holds_what_its_own_picture_shows(images):
    network = awake(encoder())
    state = network(images, state=network.begin(images))
    leaf = state.raw.detach().requires_grad_()
    drawn = gvit.render(network.gaussians(leaf), 32, 32)
    torch.testing.assert_close(state.error, drawn.detach() - images)
    errors = (drawn - images).square().mean((1, 2, 3))
    torch.testing.assert_close(state.gradient, torch.autograd.grad(errors.sum(), leaf)[0])


def test_gradients_go_through_the_last_look_only(images):
    network = awake(encoder())
    network(images).square().sum().backward()
    whole = network.head.weight.grad.clone()
    network.zero_grad()
    with torch.no_grad():
        state = network(images, state=network(images, state=network.begin(images)))
    network(images, state=state).raw.square().sum().backward()
    torch.testing.assert_close(network.head.weight.grad, whole)


def test_the_gradient_is_told_in_the_gaussians_own_frame():
    """Against finite differences: by how much the error grows as a centre moves along one of its axes."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(1, 5, 9, generator=generator, dtype=torch.float64)
    gaussians = Gaussians(raw, 1.0, 5)
    target = torch.rand(1, 3, 16, 16, generator=generator, dtype=torch.float64)

    def error(moved: Gaussians) -> torch.Tensor:
        return (gvit.render(moved, 16, 16) - target).square().sum() / 2

    leaf = raw.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(error(gaussians.replace_raw(leaf)), leaf)
    own = _Frame(gaussians).own(gradient)
    for axis in (0, 1):
        angle = gaussians.angles[0, 2] + axis * math.pi / 2
        direction = torch.stack((angle.cos(), angle.sin())) * gaussians.scales[0, 2, axis]
        ends = []
        for sign in (1, -1):
            centers = gaussians.centers.clone()
            centers[0, 2] += sign * 1e-4 * direction
            ends.append(error(gaussians.replace(centers=centers)))
        slope = (ends[0] - ends[1]) / 2e-4
        assert own[0, 2, axis].item() == pytest.approx(slope.item(), rel=0.02, abs=1e-4)


def test_a_correction_is_a_move_along_the_gaussians_axes():
    gaussians = Gaussians(0.3 * torch.randn(1, 5, 9, generator=torch.Generator().manual_seed(1)), 1.0, 5)
    correction = torch.zeros(1, 5, 9)
    correction[..., 0] = 0.01
    moved = gaussians.replace_raw(gaussians.raw + _Frame(gaussians).raw(correction))
    direction = torch.stack((gaussians.angles.cos(), gaussians.angles.sin()), -1)
    expected = 0.01 * gaussians.scales[..., :1] * direction
    torch.testing.assert_close(moved.centers - gaussians.centers, expected, rtol=0.05, atol=1e-5)
    assert torch.equal(moved.raw[..., 2:], gaussians.raw[..., 2:])


def test_predictions_need_no_autograd_and_record_none(images):
    network = awake(encoder())
    expected = network(images).detach()
    with torch.inference_mode():
        torch.testing.assert_close(network(images), expected)
    with torch.no_grad():
        assert not network(images).requires_grad
    torch.testing.assert_close(network(images.clone().requires_grad_()), expected)


def test_compiled_it_predicts_without_autograd_as_it_is(images, monkeypatch):
    """What timm's validate.py does with --torchcompile."""
    # annotations are checked in tests alone, and would be traced along
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    network = awake(encoder(looks=1, depth=1)).eval()
    compiled = torch.compile(network, backend="aot_eager")
    with torch.inference_mode():
        torch.testing.assert_close(compiled(images), network(images))


def test_noise_has_no_say(images):
    network = awake(encoder())
    assert torch.equal(network(images, noise=torch.randn(2, 16, 9)), network(images))


def test_it_learns_to_draw(images):
    network = encoder(looks=4, num_gaussians=32)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    before = psnr(gvit.render(network.gaussians(network(images).detach()), 32, 32), images).mean()
    for _ in range(12):
        state = network.begin(images)
        for _ in range(4):
            state = network(images, state=state)
            optimizer.zero_grad()
            state.raw.backward(state.gradient)
            optimizer.step()
            state = state._replace(raw=state.raw.detach())
    after = psnr(gvit.render(network.gaussians(network(images).detach()), 32, 32), images).mean()
    assert after > before + 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_chans": 1}, "in_chans must be 3, as Gaussians have three colours; got 1"),
        ({"looks": 0}, "looks must be at least 1"),
        ({"detail": 1.0}, r"detail in \[0, 1\)"),
    ],
)
def test_what_it_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RefiningEncoder(**arguments)


def test_no_images_have_no_gaussians(images):
    model = gvit.create_model("gvit_tiny", num_classes=3).eval()
    assert model(images[:0]).shape == (0, 3)
    assert model.encode(images[:0]).raw.shape == (0, 32, 9)
    assert gvit.predict(model, images[:0]) == []


@pytest.mark.parametrize("number", [{"num_gaussians": 10**11}, {"looks": 10**11}])
def test_numbers_that_cannot_be_are_refused_at_once(images, number):
    (name,) = number
    with pytest.raises(ValueError, match=f"{name} must be a whole number, at least 1 and at most 10,000"):
        gvit.create_model("gvit_tiny").encode(images, **number)


def test_images_are_floating_point(images, unchecked):
    with pytest.raises(ValueError, match=r"floating point, values in \[0, 1\], got torch.uint8"):
        gvit.create_model("gvit_tiny")((255 * images).byte())


@pytest.mark.parametrize(
    ("weights", "pictures"),
    [
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_weights_and_pictures_of_other_precision(images, weights, pictures):
    model = gvit.load_model("digits")
    with torch.no_grad():
        expected = gvit.render(model.encode(images), 32, 32)
        model = model.to(weights)
        assert model(images.to(pictures)).dtype == weights
        gaussians = model.encode(images.to(pictures))
        drawn = gvit.render(gaussians, 32, 32)
    assert gaussians.raw.dtype == weights
    assert psnr(drawn.float(), expected).mean() > (25 if weights == torch.bfloat16 else 40)


def test_an_image_that_is_not_finite_cannot_be_drawn(images):
    images[1, 0, 5, 5] = math.nan
    with pytest.raises(ValueError, match="must be finite"):
        encoder()(images)


def test_a_batch_takes_an_optimizer_step_a_look(tmp_path):
    from gvit.recipes import debug
    from gvit.training.setup import set_up

    config = debug()
    config = replace(config, model=replace(config.model, model="gvit_tiny"))
    setup = set_up(config)
    schedule, looks = setup.schedule, setup.task.model.encoder.turns
    assert looks == 12
    taken = []
    for name, optimizer in setup.task.optimizers.items():
        optimizer.register_step_post_hook(lambda *_, name=name: taken.append(name))
    for phase, expected in (
        ("reconstruct", 12 * ["encoder"]),
        ("classify", [*(12 * ["encoder"]), "classifier"]),
        ("guide", 12 * ["encoder"]),  # its first step is a guided one
    ):
        step = schedule.steps_of(phase).start
        (parts,) = setup.feed.batches(step, step + 1, workers=0)
        measures = setup.task.step(step, parts, schedule.plan(step), setup.rates(step))
        assert taken == expected, phase
        assert ("class_loss" in measures) == (phase != "reconstruct")
        taken.clear()
