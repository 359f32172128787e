"""The complete configuration of a training run; recipes return one, the command line changes its fields.

Each class below is a frozen dataclass whose values pydantic validates. A whole number may stand for a float, and a
string for a path; otherwise a value has to be of its field's type. Whatever is wrong is an ``InputError``.
"""

from __future__ import annotations

import functools
import json
import reprlib
from collections.abc import Sequence
from dataclasses import asdict, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from gvit.errors import InputError, option, unknown_name
from gvit.models.pretrained import is_pretrained_name

_Config = TypeVar("_Config")

# Defaults are validated, too: 5 becomes 5.0, so that equal configurations are equal as text.
_CHECKED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)

# A run can be resumed and evaluated from elsewhere.
_AbsolutePath = Annotated[Path, Field(strict=False), AfterValidator(Path.absolute)]

# As ``ModelConfig.init``: the pretrained weights MODEL.cifar10 where there are such, and their encoder fits.
AUTO = Path("auto")


def _start(place: Path) -> Path:
    """A path, made absolute, or a name as it is."""
    try:
        return place if place == AUTO or is_pretrained_name(place.as_posix()) else place.absolute()
    except OSError as error:  # too long to be looked for
        raise ValueError(error.strerror) from error


_Start = Annotated[Path, Field(strict=False), AfterValidator(_start)]


def _raises_input_error(kind: type[_Config]) -> type[_Config]:
    """Class decorator: what pydantic finds wrong with the arguments is raised as an ``InputError``."""
    built: Any = kind  # a type checker refuses to see __init__ replaced
    validate = built.__init__

    @functools.wraps(validate)
    def __init__(self: _Config, *args: Any, **kwargs: Any) -> None:
        try:
            validate(self, *args, **kwargs)
        except ValidationError as error:
            raise _input_error(kind, error) from error

    built.__init__ = __init__
    return kind


def _input_error(kind: Any, error: ValidationError) -> InputError:
    """The first thing that is wrong with a configuration of the class ``kind``, in one line."""
    wrong = error.errors(include_url=False)[0]
    context = wrong.get("ctx", {})
    if isinstance(context.get("error"), InputError):  # raised by a __post_init__
        return context["error"]
    *groups, place = wrong["loc"] or ("",)
    for group in groups:
        annotation = kind.__pydantic_fields__[group].annotation
        if not hasattr(
            annotation, "__pydantic_fields__"
        ):  # a value of one of several types, by the name of the type
            place = group
            break
        kind = annotation
    known = kind.__pydantic_fields__
    if wrong["type"] == "unexpected_keyword_argument":
        return unknown_name("field", str(place), known)
    name = list(known)[place] if isinstance(place, int) and place < len(known) else str(place)
    if name not in known:
        return InputError(f"not a training configuration ({wrong['msg']})")
    wanted = wrong["msg"].removeprefix("Input should be ")
    if wrong["type"] == "path_type":
        wanted = "a path"
    elif wrong["type"] == "finite_number":
        wanted = " and ".join([*_bounds(known[name]), "finite"])
    elif context.keys() & _BOUNDS.keys():
        wanted = " and ".join(_bounds(known[name]))
    value = wrong["input"]
    shown = f"{value:g}" if isinstance(value, float) else reprlib.repr(value)
    return InputError(f"{option(name)} must be {wanted}, got {shown}")


_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def _bounds(of: FieldInfo) -> list[str]:
    """Both ends of a field's range; pydantic's own message names only the one that was passed."""
    return [
        f"{words} {getattr(bound, name)}"
        for bound in of.metadata
        for name, words in _BOUNDS.items()
        if hasattr(bound, name)
    ]


@_raises_input_error
@dataclass(frozen=True, config=_CHECKED)
class ModelConfig:
    """Which model. None leaves a value as the named model has it; patch models have no use for what is Gaussian.

    A gaussian_vit takes the number and the largest size of its Gaussians from its data where they are None.

    Attributes:
        model: a name that 'gvit models' gives; None takes that of --init.
        init: run, weights file or name of pretrained weights to start from: their encoder, and their classifier where
            that has the same size; auto: the pretrained weights MODEL.cifar10 where there are such, and they fit.
        img_size: height and width of the input, pixels.
        num_gaussians: K, Gaussians per image.
        scale_factor: c, the largest standard deviation in units of the Gaussians' spacing.
        encoder: denoising (random Gaussians plus a residual), queries (learned) or refining (looks at its own picture).
        noise_std: standard deviation of the denoising encoder's random Gaussians.
        tokens: what the classifier reads: canonical (what is drawn), neighbours (the same and what is around it, of
            any number) or raw (the nine numbers).
        pool: class token, or the average over Gaussians.
        drop_path_rate: stochastic depth of the classifier.
        looks: how often a refining encoder draws, looks at its picture and corrects it.
    """

    model: str | None = "gvit_small"
    init: _Start | None = None
    img_size: Annotated[int | None, Field(ge=11)] = None
    num_gaussians: Annotated[int | None, Field(ge=1)] = None
    scale_factor: Annotated[float | None, Field(gt=0)] = None
    encoder: str | None = None
    noise_std: Annotated[float | None, Field(ge=0)] = None
    tokens: str | None = None
    pool: Literal["token", "avg"] | None = None
    drop_path_rate: Annotated[float | None, Field(ge=0, le=1)] = None
    looks: Annotated[int | None, Field(ge=1)] = None

    def settings(self) -> dict[str, Any]:
        """What can be set of the model, by the names that ``create_model`` takes."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("model", "init")}


@_raises_input_error
@dataclass(frozen=True, config=_CHECKED)
class DataConfig:
    """Which images, and what happens to them.

    Attributes:
        dataset: digits, folder (class folders of image files), parquet (Hugging Face image convention), hfds/NAME (of
            the Hugging Face Hub), hfds (what its library finds in a folder), torch/NAME (CIFAR10, Flowers102, ... of
            torchvision), wds (WebDataset tars), cub, or gaussians (class folders of what gvit fit writes).
        data_dir: folder that holds the images; digits need none.
        batch_size: images per step, over all processes; None leaves it to the number of training images.
        workers: processes that load images; 0 loads them in the main one.
        crop_mode: for evaluation: center cuts a square, squash ignores the aspect ratio.
        crop_pct: for evaluation: share of the shorter side that the centre crop keeps.
        hflip: mirror half of the training images.
        min_crop: smallest share of the area that a random crop keeps; 1 turns cropping off.
        rotate: largest random rotation, degrees.
        translate: largest random shift, share of the side.
        zoom: largest random relative change of size.
    """

    dataset: str = "digits"
    data_dir: _AbsolutePath | None = None
    batch_size: Annotated[int | None, Field(ge=1)] = 256
    workers: Annotated[int, Field(ge=0)] = 0
    crop_mode: Literal["center", "squash"] = "center"
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 0.875
    hflip: bool = True
    min_crop: Annotated[float, Field(gt=0, le=1)] = 0.5
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    translate: Annotated[float, Field(ge=0, le=1)] = 0.0
    zoom: Annotated[float, Field(ge=0, le=0.99)] = 0.0


@_raises_input_error
@dataclass(frozen=True, config=_CHECKED)
class PixelConfig:
    """What more happens to training images, by timm; none of it to Gaussians.

    Attributes:
        randaugment: magnitude, 0 to 10, of two random changes of colour or shape, each of which half of the images get.
        random_erase: share of the training images of which a random rectangle is made black.
        mixup: alpha of the mixing of training images in pairs, and of their labels; 0 for none.
        cutmix: alpha of a rectangle of the one image in the other; together with mixup, half of the pairs get each.
    """

    randaugment: Annotated[int | None, Field(ge=0, le=10)] = None
    random_erase: Annotated[float, Field(ge=0, le=1)] = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0


@_raises_input_error
@dataclass(frozen=True, config=_CHECKED)
class BrokenConfig:
    """What happens where images cannot be read.

    Attributes:
        max_broken: stop where a larger share of the training images, and more than one, cannot be read; up to there,
            they are left out. 0 allows none.
        broken_test_images: fail: a test image that cannot be read stops the evaluation; wrong: it counts as a wrong
            answer.
    """

    max_broken: Annotated[float, Field(ge=0, le=1)] = 0.01
    broken_test_images: Literal["fail", "wrong"] = "fail"


@_raises_input_error
@dataclass(frozen=True, config=_CHECKED)
class ScheduleConfig:
    """The four phases, in epochs.

    Another ``epochs`` by ``replace`` leaves the warm-up as long as it was, which may be too long for fewer epochs;
    ``gvit.training.budget.with_budget`` shrinks both, as the flag ``--epochs`` does.

    Attributes:
        epochs: stretch or shrink the phases in proportion to this total.
        reconstruct_epochs: the encoder learns to draw (pixel loss).
        perceptual_epochs: the same with 1 - SSIM added.
        classify_epochs: the classifier learns to read the Gaussians; the encoder goes on.
        guide_epochs: the classifier's gradient steers the Gaussians.
        min_steps: stretch the phases to so many steps, where few images make fewer and epochs is not given.
        guide_every: in the guided phase, one step in so many is guided.
        guide_lr: learning rate that the guided phase begins with, for a batch of 256 as base_lr is; from there half a
            cosine to 0. None goes on with the run's own, which is small by then.
        guided_steps: replacing: a guided step takes an ordinary one's place; added: its batch takes an ordinary step
            first; none: a guided phase without guidance, to compare with.
        gamma: weight of the classifier's gradient on a guided step.
        freeze_encoder: the encoder stands still in the classify phase.
        eval_every: epochs from one evaluation, and checkpoint, to the next; None for a twelfth of all, 5 at least.
    """

    epochs: Annotated[float | None, Field(gt=0, le=1e6)] = None
    reconstruct_epochs: Annotated[float, Field(ge=0)] = 150
    perceptual_epochs: Annotated[float, Field(ge=0)] = 50
    classify_epochs: Annotated[float, Field(ge=0)] = 150
    guide_epochs: Annotated[float, Field(ge=0)] = 50
    min_steps: Annotated[int | None, Field(ge=1)] = None
    guide_every: Annotated[int, Field(ge=1)] = 10
    guide_lr: Annotated[float | None, Field(gt=0)] = None
    guided_steps: Literal["replacing", "added", "none"] = "replacing"
    gamma: Annotated[float, Field(ge=0)] = 0.1
    freeze_encoder: bool = False
    eval_every: Annotated[float | None, Field(gt=0)] = 5

    def __post_init__(self) -> None:
        if sum(self.phase_epochs()) <= 0:
            raise InputError(
                f"the phases have no epochs: set {option('reconstruct_epochs')}, {option('classify_epochs')}, "
                "... above 0"
            )

    def phase_epochs(self) -> tuple[float, float, float, float]:
        """Epochs of each phase after ``epochs`` has been taken into account."""
        lengths = (self.reconstruct_epochs, self.perceptual_epochs, self.classify_epochs, self.guide_epochs)
        factor = 1.0 if self.epochs is None or not sum(lengths) else self.epochs / sum(lengths)
        return tuple(length * factor for length in lengths)  # type: ignore[return-value]

    def with_phases(self, lengths: Sequence[float]) -> ScheduleConfig:
        """The same with phases of so many epochs."""
        reconstruct, perceptual, classify, guide = lengths
        return replace(
            self,
            reconstruct_epochs=reconstruct,
            perceptual_epochs=perceptual,
            classify_epochs=classify,
            guide_epochs=guide,
        )


@_raises_input_error
@dataclass(frozen=True, config=_CHECKED)
class ObjectiveConfig:
    """What is descended.

    Attributes:
        pixel_loss: bce (binary cross-entropy), mse or psnr (minus the PSNR).
        perceptual_weight: weight of 1 - SSIM.
        gradient: cut: the classifier's gradient reaches the encoder on guided steps only; joint: on every step.
        gaussians_range: smallest and largest number of Gaussians that a step draws, by an encoder of any number;
            None for always num_gaussians.
        class_weights: balanced: the class loss of an image counts as much more as its class has fewer training images
            than the mean of the classes; none: all count the same.
    """

    pixel_loss: Literal["bce", "mse", "psnr"] = "bce"  # gvit.losses.PixelLoss, without torch
    perceptual_weight: Annotated[float, Field(ge=0)] = 0.1
    gradient: Literal["cut", "joint"] = "cut"
    gaussians_range: tuple[int, int] | None = None
    class_weights: Literal["none", "balanced"] = "none"

    def __post_init__(self) -> None:
        if self.gaussians_range is not None and not 1 <= self.gaussians_range[0] <= self.gaussians_range[1]:
            raise InputError(
                f"{option('gaussians_range')} must be a smaller and a larger number, at least 1, "
                f"got {self.gaussians_range}"
            )


@_raises_input_error
@dataclass(frozen=True, config=_CHECKED)
class GuidanceConfig:
    """How the classifier's gradient and the reconstruction's meet on guided steps; the defaults are the paper's.

    Attributes:
        gamma_unit: what gamma is measured in. loss: it is the weight of the class loss; batch, image or gaussian: the
            share of the norm of the reconstruction's gradient, of all the Gaussians, of an image's or of each.
        projection: drop from the classifier's gradient what is against the reconstruction's, of an image's Gaussians
            or of each Gaussian; none keeps it.
        guide_ema: guide by a moving average of the classifier, with this decay a step, from the guided phase on.
        psnr_budget: dB of the pictures, against the encoder that the guided phase began with, that guidance may cost:
            gamma is lowered where it costs more, and raised up to a hundredfold where it costs less.
    """

    gamma_unit: Literal["loss", "batch", "image", "gaussian"] = "loss"
    projection: Literal["none", "image", "gaussian"] = "none"
    guide_ema: Annotated[float | None, Field(ge=0, le=1)] = None
    psnr_budget: Annotated[float | None, Field(ge=0)] = None


@_raises_input_error
@dataclass(frozen=True, config=_CHECKED)
class OptimizerConfig:
    """AdamW with a linear warm-up and a cosine decay.

    Attributes:
        base_lr: learning rate for a batch of 256; it is scaled linearly with the batch.
        warmup_epochs: epochs from 0 to the full learning rate, for encoder and classifier from their first step; None
            for a twentieth of all.
        weight_decay: decoupled; biases, norms and position embeddings are left alone.
        layer_decay: factor on the learning rate from each layer of the classifier to the one before it.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        clip_grad: largest norm of each network's gradient; None turns clipping off.
        ema_decay: evaluate and save an exponential moving average of the weights with this decay a step.
        max_skipped: steps in a row that are left out because their numbers are not finite; with one more, the run goes
            back to its last checkpoint with gamma halved, once, and then stops.
    """

    base_lr: Annotated[float, Field(gt=0)] = 1e-4
    warmup_epochs: Annotated[float | None, Field(ge=0, le=1e6)] = 10
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    layer_decay: Annotated[float | None, Field(gt=0, le=1)] = None
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    clip_grad: Annotated[float | None, Field(gt=0)] = None
    ema_decay: Annotated[float | None, Field(ge=0, le=1)] = None
    max_skipped: Annotated[int, Field(ge=0)] = 10


@_raises_input_error
@dataclass(frozen=True, config=_CHECKED)
class ComputeConfig:
    """How a step is computed; what it computes stays the same but for rounding.

    Attributes:
        precision: bf16 is autocast: what places and draws the Gaussians, and the losses, stay in float32.
        accumulate: parts into which each process splits its share of a batch, to save memory; each draws its own
            stochastic depth, and gamma_unit batch is of each.
        grad_checkpointing: compute activations again in the backward pass, to save memory.
        compile: torch.compile the networks.
        graphs: on one GPU, start the kernels of an encoder's turn all at once, as a CUDA graph.
        fsdp: under torchrun, shard weights, gradients and optimizer states (FSDP2) instead of copying them (DDP).
    """

    precision: Literal["float32", "bf16", "float64"] = "float32"
    accumulate: Annotated[int, Field(ge=1)] = 1
    grad_checkpointing: bool = False
    compile: bool = False
    graphs: bool = False
    fsdp: bool = False


@_raises_input_error
@dataclass(frozen=True, config=_CHECKED)
class SavingConfig:
    """What a run keeps of itself on the way.

    Attributes:
        keep_checkpoints: so many of the last ones; more than one are kept in the run's folder checkpoints, and
            'gvit train --resume' takes any of them.
        best_measure: of the test images, by which best.safetensors is chosen; None for top1, or psnr of an encoder
            alone.
    """

    keep_checkpoints: Annotated[int, Field(ge=1)] = 1
    best_measure: Literal["top1", "top5", "psnr", "ssim"] | None = None


def _differences(values: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        part = _differences(value, usual[name]) if isinstance(value, dict) else value
        if part != ({} if isinstance(value, dict) else usual[name]):
            found[name] = part
    return found


@_raises_input_error
@dataclass(frozen=True, config=_CHECKED)
class TrainConfig:
    """Everything that decides the result of a training run.

    Attributes:
        model: which model.
        data: which images, and what happens to them.
        pixels: what more happens to them in training.
        broken: what happens where they cannot be read.
        saving: what is kept on the way.
        schedule: the four phases.
        objective: what is descended.
        guidance: how guided steps weigh it.
        optimizer: how.
        compute: on the machine.
        seed: of the weights, the order of the images, the augmentation and g0.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    pixels: PixelConfig = field(default_factory=PixelConfig)
    broken: BrokenConfig = field(default_factory=BrokenConfig)
    saving: SavingConfig = field(default_factory=SavingConfig)
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0

    def __post_init__(self) -> None:
        copies = {
            "ema_decay": self.optimizer.ema_decay,
            "guide_ema": self.guidance.guide_ema,
            "psnr_budget": self.guidance.psnr_budget,
        }
        kept = next((option(name) for name, value in copies.items() if value is not None), None)
        if self.compute.fsdp and kept is not None:
            fsdp = option("fsdp")
            raise InputError(f"{kept} needs whole weights: leave {fsdp} or {kept} out")

    def identity(self) -> str:
        """What tells it from others: its values that are not the default, so that fields to come change nothing."""
        return json.dumps(_differences(asdict(self), asdict(type(self)())), default=str)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, default=str) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """Read what ``to_json`` wrote.

        Raises:
            InputError: it isn't JSON, or a field is unknown or has a value that can't be.
        """
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            raise _input_error(cls, error) from error
