"""The complete configuration of a training run; recipes return one, the command line changes its fields."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from gvit.errors import InputError
from gvit.losses import PixelLoss




def _require(
    value: float | None, flag: str, low: float, high: float = float("inf"), open_low: bool = False
) -> None:
    if value is None:
        return
    if not (low < value if open_low else low <= value) or value > high:
        bound = f"{'above' if open_low else 'at least'} {low:g}"
        if high != float("inf"):
            bound += f" and at most {high:g}"
        raise InputError(f"--{flag} must be {bound}, got {value:g}")
    if value == float("inf"):
        raise InputError(f"--{flag} must be finite")


@dataclass(frozen=True)
class ModelConfig:
    """Which model. None leaves a value as the named model has it; patch models have no use for what is Gaussian.

    A gaussian_vit takes the number and the largest size of its Gaussians from its data where they are None.

    Attributes:
        model: a name that 'gvit models' gives; None takes that of --init.
        init: run or weights file to start from: its encoder, and its classifier where that has the same size.
        img_size: height and width of the input, pixels.
        num_gaussians: K, Gaussians per image.
        scale_factor: c, the largest standard deviation in units of the Gaussians' spacing.
        encoder: denoising (random Gaussians plus a residual) or queries (learned).
        noise_std: standard deviation of the denoising encoder's random Gaussians.
        tokens: what the classifier reads: canonical (what is drawn) or raw (the nine numbers).
        pool: class token, or the average over Gaussians.
        drop_path_rate: stochastic depth of the classifier.
    """

    model: str | None = "gvit_small"
    init: Path | None = None
    img_size: int | None = None
    num_gaussians: int | None = None
    scale_factor: float | None = None
    encoder: str | None = None
    noise_std: float | None = None
    tokens: str | None = None
    pool: Literal["token", "avg"] | None = None
    drop_path_rate: float | None = None

    def __post_init__(self) -> None:
        if self.init is not None:
            object.__setattr__(self, "init", self.init.absolute())
        _require(self.img_size, "img-size", 11)
        _require(self.num_gaussians, "num-gaussians", 1)
        _require(self.scale_factor, "scale-factor", 0, open_low=True)
        _require(self.noise_std, "noise-std", 0)
        _require(self.drop_path_rate, "drop-path-rate", 0, 1)

    def settings(self) -> dict[str, Any]:
        """What can be set of the model, by the names that ``create_model`` takes."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("model", "init")}


@dataclass(frozen=True)
class DataConfig:
    """Which images, and what happens to them.

    Attributes:
        dataset: digits, folder (class folders of image files), parquet (Hugging Face image convention) or gaussians
            (class folders of what gvit fit writes).
        data_dir: folder that holds the images; digits need none.
        batch_size: images per step, over all processes.
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
    data_dir: Path | None = None
    batch_size: int = 256
    workers: int = 0
    crop_mode: Literal["center", "squash"] = "center"
    crop_pct: float = 0.875
    hflip: bool = True
    min_crop: float = 0.5
    rotate: float = 0.0
    translate: float = 0.0
    zoom: float = 0.0

    def __post_init__(self) -> None:
        if self.data_dir is not None:  # a run can be resumed and evaluated from elsewhere
            object.__setattr__(self, "data_dir", self.data_dir.absolute())
        _require(self.batch_size, "batch-size", 1)
        _require(self.workers, "workers", 0)
        _require(self.crop_pct, "crop-pct", 0, 1, open_low=True)
        _require(self.min_crop, "min-crop", 0, 1, open_low=True)
        _require(self.rotate, "rotate", 0, 180)
        _require(self.translate, "translate", 0, 1)
        _require(self.zoom, "zoom", 0, 0.99)


@dataclass(frozen=True)
class ScheduleConfig:
    """The four phases, in epochs.

    Attributes:
        epochs: stretch or shrink the phases in proportion to this total.
        reconstruct_epochs: the encoder learns to draw (pixel loss).
        perceptual_epochs: the same with 1 - SSIM added.
        classify_epochs: the classifier learns to read the Gaussians; the encoder goes on.
        guide_epochs: the classifier's gradient steers the Gaussians.
        guide_every: in the guided phase, one step in so many is guided.
        gamma: weight of the classifier's gradient on a guided step.
        freeze_encoder: the encoder stands still in the classify phase.
        eval_every: epochs from one evaluation, and checkpoint, to the next.
    """

    epochs: float | None = None
    reconstruct_epochs: float = 150
    perceptual_epochs: float = 50
    classify_epochs: float = 150
    guide_epochs: float = 50
    guide_every: int = 10
    gamma: float = 0.1
    freeze_encoder: bool = False
    eval_every: float = 5

    def __post_init__(self) -> None:
        for name in ("reconstruct", "perceptual", "classify", "guide"):
            _require(getattr(self, f"{name}_epochs"), f"{name}-epochs", 0)
        _require(self.epochs, "epochs", 0, open_low=True)
        _require(self.guide_every, "guide-every", 1)
        _require(self.gamma, "gamma", 0)
        _require(self.eval_every, "eval-every", 0, open_low=True)
        if sum(self.phase_epochs()) <= 0:
            raise InputError(
                "the phases have no epochs: set --reconstruct-epochs, --classify-epochs, ... above 0"
            )

    def phase_epochs(self) -> tuple[float, float, float, float]:
        """Epochs of each phase after ``epochs`` has been taken into account."""
        lengths = (self.reconstruct_epochs, self.perceptual_epochs, self.classify_epochs, self.guide_epochs)
        factor = 1.0 if self.epochs is None or not sum(lengths) else self.epochs / sum(lengths)
        return tuple(length * factor for length in lengths)  # type: ignore[return-value]


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is descended.

    Attributes:
        pixel_loss: bce (binary cross-entropy) or mse.
        perceptual_weight: weight of 1 - SSIM.
        gradient: cut: the classifier's gradient reaches the encoder on guided steps only; joint: on every step.
    """

    pixel_loss: PixelLoss = "bce"
    perceptual_weight: float = 0.1
    gradient: Literal["cut", "joint"] = "cut"

    def __post_init__(self) -> None:
        _require(self.perceptual_weight, "perceptual-weight", 0)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a linear warm-up and a cosine decay.

    Attributes:
        base_lr: learning rate for a batch of 256; it is scaled linearly with the batch.
        warmup_epochs: epochs from 0 to the full learning rate, for encoder and classifier from their first step.
        weight_decay: decoupled; biases, norms and position embeddings are left alone.
        layer_decay: factor on the learning rate from each layer of the classifier to the one before it.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        clip_grad: largest norm of each network's gradient; none turns clipping off.
        ema_decay: evaluate and save an exponential moving average of the weights with this decay a step.
    """

    base_lr: float = 1e-4
    warmup_epochs: float = 10
    weight_decay: float = 0.05
    layer_decay: float | None = None
    beta1: float = 0.9
    beta2: float = 0.95
    clip_grad: float | None = None
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        _require(self.base_lr, "base-lr", 0, open_low=True)
        _require(self.warmup_epochs, "warmup-epochs", 0)
        _require(self.weight_decay, "weight-decay", 0)
        _require(self.beta1, "beta1", 0, 1)
        _require(self.beta2, "beta2", 0, 1)
        _require(self.clip_grad, "clip-grad", 0, open_low=True)
        _require(self.layer_decay, "layer-decay", 0, 1, open_low=True)
        _require(self.ema_decay, "ema-decay", 0, 1)


@dataclass(frozen=True)
class ComputeConfig:
    """How a step is computed; what it computes stays the same but for rounding.

    Attributes:
        precision: bf16 is autocast: what places and draws the Gaussians, and the losses, stay in float32.
        accumulate: parts into which each process splits its share of a batch, to save memory.
        grad_checkpointing: compute activations again in the backward pass, to save memory.
        compile: torch.compile the networks.
        fsdp: under torchrun, shard weights, gradients and optimizer states (FSDP2) instead of copying them (DDP).
    """

    precision: Literal["float32", "bf16", "float64"] = "float32"
    accumulate: int = 1
    grad_checkpointing: bool = False
    compile: bool = False
    fsdp: bool = False

    def __post_init__(self) -> None:
        _require(self.accumulate, "accumulate", 1)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the result of a training run.

    Attributes:
        model: which model.
        data: which images, and what happens to them.
        schedule: the four phases.
        objective: what is descended.
        optimizer: how.
        compute: on the machine.
        seed: of the weights, the order of the images, the augmentation and g0.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.seed, "seed", 0, 2**63 - 1)
        if self.compute.fsdp and self.optimizer.ema_decay is not None:
            raise InputError("--ema-decay needs whole weights: leave --fsdp or --ema-decay out")

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, default=str) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """Read what ``to_json`` wrote.

        Raises:
            InputError: not JSON, or not of this configuration.
        """
        try:
            return _build(cls, json.loads(text))
        except (TypeError, json.JSONDecodeError) as error:
            raise InputError(f"not a training configuration ({error})") from error


def _build(kind: Any, values: dict[str, Any]) -> Any:
    hints = get_type_hints(kind)
    built = {}
    for name, value in values.items():
        hint = hints.get(name)
        if is_dataclass(hint):
            built[name] = _build(hint, value)
        elif name in ("data_dir", "init") and value is not None:
            built[name] = Path(value)
        else:
            built[name] = value
    return kind(**built)
