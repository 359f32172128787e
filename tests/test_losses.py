from functools import partial

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch._subclasses.fake_tensor import FakeTensorMode

from gvit import Gaussians, render
from gvit.gaussians.precision import full_precision
from gvit.losses import ms_ssim, pixel_loss, psnr, ssim


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 3, 20, 27, generator=generator, dtype=torch.float64)
    noise = torch.rand(image.shape, generator=generator, dtype=torch.float64)
    return image, 0.7 * image + 0.3 * noise


def test_ssim_is_scikit_images(pair):
    for image, other, value in zip(*pair, ssim(*pair), strict=True):
        expected = structural_similarity(
            image.numpy(),
            other.numpy(),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert value.item() == pytest.approx(expected, abs=1e-9)


def test_psnr_is_scikit_images(pair):
    for image, other, value in zip(*pair, psnr(*pair), strict=True):
        expected = peak_signal_noise_ratio(image.numpy(), other.numpy(), data_range=1.0)
        assert value.item() == pytest.approx(expected, abs=1e-9)


def test_ssim_of_equal_images_is_one(pair):
    torch.testing.assert_close(ssim(pair[0], pair[0]), torch.ones(3, dtype=torch.float64))


def test_ssim_gradient():
    generator = torch.Generator().manual_seed(1)
    image, other = torch.rand(2, 1, 1, 11, 12, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: ssim(x, other), image.requires_grad_())


def test_ssim_can_be_trained_after_it_was_used_in_inference_mode():
    with torch.inference_mode():
        ssim(torch.rand(1, 3, 23, 23), torch.rand(1, 3, 23, 23))
    image = torch.rand(1, 3, 23, 23, requires_grad=True)
    ssim(image, torch.rand(1, 3, 23, 23)).sum().backward()
    assert image.grad is not None


class Similarity(torch.nn.Module):
    def forward(self, image, other):
        return ssim(image, other)


def test_ssim_is_a_number_before_and_after_it_was_traced(pair):
    wanted = ssim(*pair)
    with FakeTensorMode() as mode:
        ssim(*map(mode.from_tensor, pair))
    exported = torch.export.export(Similarity(), pair)
    torch.testing.assert_close(exported.module()(*pair), wanted)
    found = ssim(*pair)
    assert type(found) is torch.Tensor
    torch.testing.assert_close(found, wanted)


def test_ssim_needs_a_whole_window():
    with pytest.raises(ValueError, match="11x11 pixels, got 10x32"):
        ssim(torch.rand(1, 3, 10, 32), torch.rand(1, 3, 10, 32))


def test_bce_is_the_cross_entropy_of_the_squeezed_picture():
    rendered, target = torch.tensor([0.2, 0.9]), torch.tensor([0.3, 1.0])
    margin = 0.5 / 255
    p = rendered.double().numpy() * (1 - 2 * margin) + margin
    t = target.double().numpy()
    expected = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    value = pixel_loss(rendered.view(1, 1, 1, 2), target.view(1, 1, 1, 2), "bce")
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["bce", "mse", "psnr"])
def test_pixel_loss_pulls_towards_the_target(kind):
    target = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)
    rendered = torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 1, 3).requires_grad_()
    pixel_loss(rendered, target, kind).backward()
    down, none, up = rendered.grad.flatten().tolist()
    assert down > 0 > up
    assert none == pytest.approx(0, abs=1e-4)
    assert abs(up) <= 512 / 3  # where nothing is drawn the gradient is large, but bounded


def test_bce_takes_a_picture_that_rounding_leaves_above_one():
    raw = torch.randn(200, 9, generator=torch.Generator().manual_seed(0))
    raw[:, 5:8] = 40  # white
    rendered = render(Gaussians(raw, nominal_count=50), 24, 24, background=torch.ones(3))
    assert rendered.max() > 1
    rendered.requires_grad_()
    pixel_loss(rendered, torch.zeros_like(rendered), "bce").backward()
    assert (rendered.grad > 0).all()
    assert rendered.grad.isfinite().all()


@pytest.fixture
def large_pair(pair) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth, with detail of several sizes; sides that are odd after a while of halving."""
    return tuple(torch.nn.functional.interpolate(x[:2], (178, 205), mode="bicubic").clamp(0, 1) for x in pair)


def ms_ssim_by_numpy(image: np.ndarray, other: np.ndarray) -> float:
    """Wang, Simoncelli and Bovik 2003, of one image [C, H, W]; the coarsest scale is mirrored at its edges."""
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    window = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    window /= window.sum()

    def smooth(x: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(x, window, 1, mode="mirror"), window, 2, mode="mirror")

    value = 1.0
    for scale, weight in enumerate(weights):
        mean_x, mean_y = smooth(image), smooth(other)
        variances = smooth(image**2) - mean_x**2 + smooth(other**2) - mean_y**2
        similar = (2 * (smooth(image * other) - mean_x * mean_y) + 0.03**2) / (variances + 0.03**2)
        if scale == len(weights) - 1:
            similar *= (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        else:
            similar = similar[:, 5:-5, 5:-5]
        value *= similar.mean() ** weight
        height, width = (side // 2 for side in image.shape[1:])
        image, other = (
            x[:, : 2 * height, : 2 * width].reshape(-1, height, 2, width, 2).mean((2, 4))
            for x in (image, other)
        )
    return value


def test_ms_ssim_is_the_paper_s(large_pair):
    found = ms_ssim(*large_pair)
    expected = [
        ms_ssim_by_numpy(image.numpy(), other.numpy()) for image, other in zip(*large_pair, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert max(expected) < 0.99
    assert ms_ssim(large_pair[0][0], large_pair[1][0]).item() == pytest.approx(expected[0], abs=1e-6)


def test_ms_ssim_needs_a_window_at_the_coarsest_scale():
    assert ms_ssim(torch.rand(1, 3, 176, 175), torch.rand(1, 3, 176, 175)) is None
    assert ms_ssim(torch.rand(1, 1, 176, 176), torch.rand(1, 1, 176, 176)).shape == (1,)


def test_precision_is_not_the_callers(pair, large_pair):
    smooth = [torch.nn.functional.avg_pool2d(x, 3, 1).float() for x in pair]  # squares nearly cancel
    large = [x[:1].float() for x in large_pair]
    measures = [ssim, psnr, *(partial(pixel_loss, kind=kind) for kind in ("bce", "mse", "psnr"))]
    for measure, (image, other) in [*((measure, smooth) for measure in measures), (ms_ssim, large)]:
        expected = measure(image, other)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(measure(image, other), expected)
        for dtype in (torch.float16, torch.bfloat16):
            of_few_bits = measure(image.to(dtype), other.to(dtype))
            assert of_few_bits.dtype == torch.float32
            assert torch.equal(of_few_bits, measure(image.to(dtype).float(), other.to(dtype).float()))


def test_precision_of_matrix_products_is_not_the_callers(pair):
    """On processors with products of bfloat16, a choice of all threads would be seen in SSIM."""
    smooth = [torch.nn.functional.avg_pool2d(x, 3, 1).float() for x in pair]
    expected = ssim(*smooth)
    before = torch.get_float32_matmul_precision()
    try:
        for chosen in ("medium", "high"):
            torch.set_float32_matmul_precision(chosen)
            assert torch.equal(ssim(*smooth), expected)
            with full_precision(smooth[0].device):
                with full_precision(smooth[0].device):
                    pass
                assert torch.get_float32_matmul_precision() == "highest"
            assert torch.get_float32_matmul_precision() == chosen
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="needs PyTorch 2.9")
def test_a_choice_for_all_backends_is_theirs_again():
    before = torch.backends.fp32_precision
    try:
        torch.backends.fp32_precision = "tf32"
        with full_precision(torch.device("cpu")):
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        torch.backends.fp32_precision = "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"  # follows the caller's next choice
    finally:
        torch.backends.fp32_precision = before


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="needs PyTorch 2.9")
def test_nor_that_of_single_backends(pair):
    products = torch.backends.mkldnn.matmul
    before = products.fp32_precision
    smooth = [torch.nn.functional.avg_pool2d(x, 3, 1).float() for x in pair]
    expected = ssim(*smooth)
    try:
        products.fp32_precision = "bf16"
        assert torch.equal(ssim(*smooth), expected)
        assert products.fp32_precision == "bf16"
    finally:
        products.fp32_precision = before


@pytest.mark.parametrize(
    ("image", "target", "message"),
    [
        (torch.rand(2, 3, 16, 16), torch.rand(1, 3, 16, 16), r"got \[2, 3, 16, 16\] and \[1, 3, 16, 16\]"),
        (torch.rand(16, 16), torch.rand(16, 16), r"the same shape \[..., C, H, W\], got \[16, 16\]"),
        (
            torch.rand(3, 16, 16),
            torch.zeros(3, 16, 16, dtype=torch.uint8),
            "floating point, .* got torch.uint8",
        ),
        (torch.rand(3, 16, 16).numpy(), torch.rand(3, 16, 16), "images must be tensors, got ndarray"),
    ],
    ids=["batch", "no channels", "bytes", "array"],
)
def test_what_cannot_be_compared_is_refused(unchecked, image, target, message):
    for measure in (
        ssim,
        ms_ssim,
        psnr,
        *(partial(pixel_loss, kind=kind) for kind in ("bce", "mse", "psnr")),
    ):
        with pytest.raises(ValueError, match=message):
            measure(image, target)


def test_images_of_two_dtypes_are_compared_in_the_larger_one(pair):
    image, other = pair[0].double(), pair[1].float()
    for measure in (ssim, psnr, *(partial(pixel_loss, kind=kind) for kind in ("bce", "mse", "psnr"))):
        assert torch.equal(measure(image, other), measure(image, other.double()))


def test_of_no_images_there_are_no_measures():
    none = torch.empty(0, 3, 176, 176)
    assert ssim(none, none).shape == ms_ssim(none, none).shape == psnr(none, none).shape == (0,)


def test_unknown_pixel_loss():
    with pytest.raises(ValueError, match="'bce', 'mse' or 'psnr'"):
        pixel_loss(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4), "l1")


def test_the_psnr_loss_is_minus_the_mean_psnr(pair):
    image, other = pair
    assert pixel_loss(image, other, "psnr").item() == pytest.approx(
        -psnr(image, other).mean().item(), abs=0.05
    )
    # beyond 40 dB there is nothing to win
    assert pixel_loss(image, image, "psnr").item() == pytest.approx(-40, abs=1e-3)


def test_every_image_pulls_alike_in_the_psnr_loss():
    target = torch.full((2, 3, 12, 12), 0.5)
    image = target + torch.tensor([0.02, 0.4]).reshape(2, 1, 1, 1)
    image.requires_grad_()
    pixel_loss(image, target, "psnr").backward()
    # relative to the error that there is: of the mean squared error it would be 20 times as much
    relative = (image.grad * (image.detach() - target)).sum((1, 2, 3))
    assert relative[0].item() == pytest.approx(relative[1].item(), rel=0.3)
