"""GViT on ImageNet-1k and on mini-ImageNet, as the paper trains it (Section 3 and Appendix A, Table A.1a).

Commands, with class folders in ``FOLDER/train`` and ``FOLDER/val``, on 8 GPUs of 48 GB or more:

    torchrun --nproc-per-node 8 -m gvit train imagenet1k --accumulate 4 --data-dir FOLDER
    torchrun --nproc-per-node 8 -m gvit train imagenet1k --accumulate 4 --model gvit_base --data-dir FOLDER
    torchrun --nproc-per-node 8 -m gvit train imagenet1k_swap --accumulate 4 --data-dir FOLDER
    torchrun --nproc-per-node 8 -m gvit train mini_imagenet --data-dir FOLDER
    torchrun --nproc-per-node 8 -m gvit train imagenet1k_refining --accumulate 4 --data-dir FOLDER

That is 128 images of a GPU at a time; 256 of GViT-S took 50.2 GiB (docs/gpu.md).

Expected time: the paper says 12 hours on 8 A100 for ImageNet-1k. Expected top-1, by the paper: GViT-S 72.4 %,
GViT-B 76.9 %; mini-ImageNet 75.2 %. The last is not the paper's: its encoder looks at its own picture. Here: not yet
measured. ``--dry-run`` tells what fits and how long it takes on
your machine.
"""

from dataclasses import replace
from pathlib import Path

from gvit.training.config import (
    ComputeConfig,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)


def imagenet1k() -> TrainConfig:
    """The complete configuration: 400 epochs of batch 4,096."""
    return TrainConfig(
        model=ModelConfig("gvit_small", scale_factor=1.0),
        data=DataConfig("folder", batch_size=4096, workers=8, min_crop=0.5),
        schedule=ScheduleConfig(
            reconstruct_epochs=150.0, perceptual_epochs=50.0, classify_epochs=150.0, guide_epochs=50.0
        ),
        compute=ComputeConfig(precision="bf16", compile=True),
    )


def imagenet1k_refining() -> TrainConfig:
    """The same epochs with the encoder that looks at its own picture, which soon draws: most of them classify."""
    whole = imagenet1k()
    return replace(
        whole,
        model=ModelConfig("gvit_small_refining"),
        schedule=ScheduleConfig(
            reconstruct_epochs=10.0, perceptual_epochs=0.0, classify_epochs=340.0, guide_epochs=50.0
        ),
        objective=ObjectiveConfig(pixel_loss="psnr", perceptual_weight=0.0),
        optimizer=OptimizerConfig(clip_grad=1.0),
    )


def imagenet1k_swap() -> TrainConfig:
    """ViT-S exchanged for ViT-B above the encoder of ``runs/imagenet1k``, or of ``--init RUN``, then gamma 0.05."""
    whole = imagenet1k()
    return replace(
        whole,
        model=ModelConfig("gvit_base", init=Path("runs/imagenet1k")),
        schedule=ScheduleConfig(
            reconstruct_epochs=0.0,
            perceptual_epochs=0.0,
            classify_epochs=150.0,
            guide_epochs=50.0,
            gamma=0.05,
        ),
    )


def mini_imagenet() -> TrainConfig:
    """The paper's ablations: 100 classes; the batch is a quarter, for a data set that is a twentieth."""
    whole = imagenet1k()
    return replace(whole, data=replace(whole.data, batch_size=1024))
