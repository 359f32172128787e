"""GViT on ten classes of ImageNet at 128x128, from class folders.

Commands: ``gvit train imagenette --data-dir FOLDER``, with ``FOLDER/train`` and ``FOLDER/val``; with the paper's
encoder and losses, ``gvit train imagenette_paper``. The whole recipe, on an NVIDIA H200: see ``docs/experiments.md``.
Twelve of its 100 epochs with the paper's encoder: see ``docs/results.md``.
"""

from dataclasses import replace

from gvit.training.config import (
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)


def imagenette() -> TrainConfig:
    """The complete configuration."""
    return replace(
        imagenette_paper(),
        model=ModelConfig("gvit_tiny", img_size=128, num_gaussians=128),
        schedule=ScheduleConfig(
            reconstruct_epochs=4.0, perceptual_epochs=0.0, classify_epochs=76.0, guide_epochs=20.0
        ),
        objective=ObjectiveConfig(pixel_loss="psnr", perceptual_weight=0.0),
    )


def imagenette_paper() -> TrainConfig:
    """The complete configuration with the paper's encoder."""
    return TrainConfig(
        model=ModelConfig("gvit_tiny_denoising", img_size=128, num_gaussians=128),
        data=DataConfig("folder", batch_size=64, crop_pct=1.0, min_crop=0.5),
        schedule=ScheduleConfig(
            reconstruct_epochs=20.0, perceptual_epochs=10.0, classify_epochs=50.0, guide_epochs=20.0
        ),
        optimizer=OptimizerConfig(base_lr=4e-3, warmup_epochs=5.0, clip_grad=1.0),
    )
