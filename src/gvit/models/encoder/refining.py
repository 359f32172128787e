"""An encoder that draws, looks at its own picture, and corrects it: a learned optimiser."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from timm.models import checkpoint_seq
from torch import Tensor, nn
from torch.nn import functional as F

from gvit.gaussians import NUM_FIELDS, Gaussians
from gvit.gaussians.fields import pair
from gvit.gaussians.precision import full_precision
from gvit.models.encoder.anchors import anchors, coarse, sample
from gvit.models.encoder.base import Drawing, GaussianEncoder
from gvit.models.init import init_linear
from gvit.rendering import render
from gvit.rendering.closed_form import squared_error

_FREQUENCIES = 4
_TAPS = 3  # a side of the grid of samples around a centre
_SPAN = 1.5  # from the centre to the outer samples, standard deviations
_MEMORY = 0.7  # how much of the mean gradient stays from look to look
# What g0 is beside its centres and colours: opaque, and as large as to meet its neighbours.
_START_SIZE, _START_OPACITY = 0.6, 2.5
# What the network reads of the spacing is 0 at six pixels between Gaussians.
_USUAL_SPACING = 6.0
# gradient and its mean at two scales each, last move; shape, colour, opacity; position; spacing; samples
_WIDTH = 5 * NUM_FIELDS + 8 + 2 + 4 * _FREQUENCIES + 1 + 6 * _TAPS**2


class _Block(nn.Module):
    """A residual MLP: what a Gaussian needs to know of others is in the picture."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.relu(self.up(self.norm(x))))


class RefiningEncoder(GaussianEncoder):
    """g0 where the image has detail, in its colours; then look by look a correction, by the same small network.

    A look draws the Gaussians so far and takes the gradient of the squared error at their raw numbers (first order: it
    is a number, not differentiated through). The network reads, for each Gaussian on its own, that gradient and its
    mean over the looks so far in the Gaussian's own frame, the last correction, the Gaussian, its place, how far apart
    they are in pixels, and samples of the error and of the image around its centre. It never sees a label. In training
    each look is a turn, with a step of the optimizer after it.

    Nothing of it depends on the number of Gaussians or on the size of the images: the same weights draw with any.

    Args:
        img_size: height and width of the images, pixels; what a classifier behind it is given.
        in_chans: image channels; 3, as Gaussians have.
        num_gaussians: K, where no other number is asked for.
        scale_factor: c, the bound on the standard deviations in units of the Gaussians' spacing.
        embed_dim: width of the network.
        depth: its residual blocks.
        mlp_ratio: hidden width of a block, in units of embed_dim.
        looks: how many, where no other number is asked for.
        detail: how much the first places follow the image's detail, from 0 (an even grid) to below 1.
    """

    kind = "refining"
    any_number = True
    noisy = False

    def __init__(
        self,
        img_size: int = 224,
        in_chans: int = 3,
        num_gaussians: int = 512,
        scale_factor: float = 3.0,
        embed_dim: int = 96,
        depth: int = 2,
        mlp_ratio: float = 2.0,
        looks: int = 12,
        detail: float = 0.7,
    ) -> None:
        super().__init__()
        if in_chans != 3:
            raise ValueError(f"in_chans must be 3, as Gaussians have three colours; got {in_chans}")
        if looks < 1 or not 0 <= detail < 1:
            raise ValueError(f"looks must be at least 1, detail in [0, 1), got {looks}, {detail}")
        self.num_gaussians = num_gaussians
        self.scale_factor = scale_factor
        self.turns = looks
        self.detail = detail
        self.grad_checkpointing: bool = False
        self.embed: nn.Linear = nn.Linear(_WIDTH, embed_dim)
        self.blocks: nn.Sequential = nn.Sequential(
            *(_Block(embed_dim, int(mlp_ratio * embed_dim)) for _ in range(depth))
        )
        self.norm: nn.LayerNorm = nn.LayerNorm(embed_dim)
        self.head: nn.Linear = nn.Linear(embed_dim, NUM_FIELDS)
        self.apply(init_linear)
        nn.init.zeros_(self.head.weight)  # training starts from g = g0

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the activations of the last look's blocks again in the backward pass."""
        self.grad_checkpointing = enable

    def geometry(self) -> list[nn.Module]:
        return [self.embed, self.head]

    def forward(
        self,
        images: Float[Tensor, "batch c h w"],
        noise: Float[Tensor, "batch k 9"] | None = None,
        state: Drawing | None = None,
        *,
        num_gaussians: int | None = None,
        turns: int | None = None,
    ) -> Float[Tensor, "batch k 9"] | Drawing:
        """See ``GaussianEncoder``; ``noise`` has no use here. Gradients go through the last look only.

        Args:
            images: of any size.
            noise: unused.
            state: as there.
            num_gaussians: another number than the encoder's own.
            turns: another number of looks.
        """
        if state is not None:
            return self._see(images, self._correct(images, state))
        state = self.begin(images, noise, num_gaussians)
        looks = self.turns if turns is None else turns
        for look in range(looks):
            if look:
                state = self._see(images, state)
            with torch.set_grad_enabled(torch.is_grad_enabled() and look == looks - 1):
                state = self._correct(images, state)
        return state.raw.to(self.embed.weight.dtype)

    @torch.no_grad()
    def begin(
        self,
        images: Float[Tensor, "batch c h w"],
        noise: Float[Tensor, "batch k 9"] | None = None,
        num_gaussians: int | None = None,
    ) -> Drawing:
        """g0, no gradient so far, no move; see ``GaussianEncoder``."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must have shape [B, 3, H, W], got {list(images.shape)}")
        if not images.is_floating_point():
            raise ValueError(f"images must be floating point, values in [0, 1], got {images.dtype}")
        # what is drawn and compared needs 32 bits, also where the network has fewer
        images = images.to(torch.promote_types(self.embed.weight.dtype, torch.float32))
        count = self.num_gaussians if num_gaussians is None else num_gaussians
        places, cells = anchors(images, count, self.detail)
        raw = images.new_zeros(images.shape[0], count, NUM_FIELDS)
        raw[..., :2] = places.clamp(-0.995, 0.995).atanh()
        raw[..., 2:4] = (_START_SIZE * cells / self.scale_factor).clamp(0.02, 0.93).logit()
        smooth = F.avg_pool2d(coarse(images, count), 3, 1, 1, count_include_pad=False)
        raw[..., 5:8] = sample(smooth, places.unsqueeze(1)).clamp(0.02, 0.98).logit()
        raw[..., 8] = _START_OPACITY
        nothing = torch.zeros_like(raw)
        return self._see(images, Drawing(raw, nothing, nothing, images, nothing))

    def gaussians(self, raw: Float[Tensor, "batch k 9"], aspect: float = 1.0) -> Gaussians:
        """The meaning of this encoder's raw numbers: the spacing is that of as many as there are."""
        return Gaussians(raw, self.scale_factor, raw.shape[-2], aspect)

    def _see(self, images: Float[Tensor, "batch 3 h w"], drawing: Drawing) -> Drawing:
        """Draw, and see what is wrong with the picture."""
        if torch.compiler.is_exporting():  # a graph holds no backward pass
            error, gradient = squared_error(self._placed(drawing.raw, images), images)
            return drawing._replace(error=error, gradient=gradient)
        look = self._look
        if torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
            # a graph would make tensors of inference, of which there is no derivative
            look = torch.compiler.disable(look)
        error, gradient = look(images, drawing.raw)
        return drawing._replace(error=error, gradient=gradient)

    def _look(
        self, images: Float[Tensor, "batch 3 h w"], raw: Float[Tensor, "batch k 9"]
    ) -> tuple[Float[Tensor, "batch 3 h w"], Float[Tensor, "batch k 9"]]:
        """The picture's error, and its gradient; also where nothing is to be recorded, as in prediction."""
        with torch.inference_mode(False), torch.enable_grad(), full_precision(images.device):
            leaf = raw.detach().clone().requires_grad_()
            drawn = render(self._placed(leaf, images), *images.shape[-2:])
            error = drawn.detach() - images.to(drawn.dtype)
            (gradient,) = torch.autograd.grad(drawn, leaf, error * (2 / error.shape[1:].numel()))
        return error, gradient

    def _correct(self, images: Float[Tensor, "batch 3 h w"], drawing: Drawing) -> Drawing:
        raw, mean, moved, error, gradient = drawing
        with torch.no_grad(), full_precision(images.device):
            frame = _Frame(self._placed(raw, images))
            # per pixel that a Gaussian has to draw: alike for any number and any size
            gradient = frame.own(gradient * (1.5 * raw.shape[-2]))
            mean = _MEMORY * mean + (1 - _MEMORY) * gradient
            seen = self._seen(images.to(raw.dtype), raw, error, frame, (gradient, mean, moved))
        tokens = self.embed(seen.to(self.embed.weight.dtype))
        tokens = checkpoint_seq(self.blocks, tokens) if self.grad_checkpointing else self.blocks(tokens)
        correction = self.head(self.norm(tokens)).to(raw.dtype)
        return drawing._replace(raw=raw + frame.raw(correction), mean=mean, moved=correction.detach())

    def _placed(self, raw: Float[Tensor, "batch k 9"], images: Float[Tensor, "batch 3 h w"]) -> Gaussians:
        height, width = images.shape[-2:]
        return self.gaussians(raw, height / width)

    def _seen(
        self,
        images: Float[Tensor, "batch 3 h w"],
        raw: Float[Tensor, "batch k 9"],
        error: Float[Tensor, "batch 3 h w"],
        frame: _Frame,
        gradients: tuple[Tensor, Tensor, Tensor],
    ) -> Float[Tensor, "batch k width"]:
        gradient, mean, moved = gradients
        place = raw[..., :2].tanh()
        octaves = 0.5 * math.pi * 2.0 ** torch.arange(_FREQUENCIES, dtype=raw.dtype, device=raw.device)
        phases = (place.unsqueeze(-1) * octaves).flatten(-2)
        doubled = 2 * raw[..., 4:5]
        count, spacing = raw.shape[-2], math.sqrt(images.shape[-2:].numel() / raw.shape[-2])
        around = torch.cat((coarse(error, count), coarse(images, count) - 0.5), 1)
        samples = sample(around, frame.around(place)).flatten(-2)
        # how many there are is not told: a number beyond those of the training would lead astray
        distance = raw.new_full((1,), math.log(spacing / _USUAL_SPACING))
        parts = (
            *(gradient.asinh(), (30 * gradient).asinh(), mean.asinh(), (30 * mean).asinh()),
            (4 * moved).clamp(-3, 3),
            *(raw[..., 2:4].clamp(-6, 6) / 2, doubled.cos(), doubled.sin(), raw[..., 5:9].clamp(-6, 6) / 2),
            *(place, phases.sin(), phases.cos(), distance.expand(*raw.shape[:-1], 1)),
            2 * samples,
        )
        return torch.cat(parts, -1)


class _Frame:
    """Each Gaussian's own axes: lengths in its standard deviations, directions from its first axis."""

    def __init__(self, gaussians: Gaussians) -> None:
        self.scales = gaussians.scales
        angles = gaussians.angles.unsqueeze(-1)
        self.cos, self.sin = angles.cos(), angles.sin()
        self.extent = pair(*gaussians.extent, self.scales)
        place = gaussians.raw[..., :2].tanh()
        self.slope = 1 - place.square()  # of tanh

    def own(self, gradient: Float[Tensor, "batch k 9"]) -> Float[Tensor, "batch k 9"]:
        """The gradient at the raw centre as one along the axes, per standard deviation; the others as they are."""
        x, y = (gradient[..., :2] / (self.extent * self.slope + 1e-3)).split(1, -1)
        turned = torch.cat((x * self.cos + y * self.sin, y * self.cos - x * self.sin), -1)
        return torch.cat((turned * self.scales, gradient[..., 2:]), -1)

    def raw(self, correction: Float[Tensor, "batch k 9"]) -> Float[Tensor, "batch k 9"]:
        """A move along the axes, in standard deviations, as one of the raw centre; the others as they are."""
        along, across = (correction[..., :2] * self.scales).split(1, -1)
        move = torch.cat((along * self.cos - across * self.sin, along * self.sin + across * self.cos), -1)
        return torch.cat((move / (self.extent * (self.slope + 0.02)), correction[..., 2:]), -1)

    def around(self, place: Float[Tensor, "batch k 2"]) -> Float[Tensor, "batch m k 2"]:
        """A grid of places along the axes, the centre in its middle, in units of the half canvas."""
        steps = torch.linspace(-_SPAN, _SPAN, _TAPS, dtype=place.dtype, device=place.device)
        across, along = torch.meshgrid(steps, steps, indexing="ij")
        first, second = (
            self.scales[..., i : i + 1] * t.flatten() for i, t in ((0, along), (1, across))
        )  # [B, K, M]
        x, y = first * self.cos - second * self.sin, first * self.sin + second * self.cos
        offsets = torch.stack((x, y), -1) / self.extent
        return (place.unsqueeze(-2) + offsets).transpose(1, 2)
