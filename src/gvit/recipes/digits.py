"""GViT on scikit-learn's 1,797 handwritten digits, 8x8 enlarged to 32x32.

Commands: ``gvit train digits``; with the paper's encoder and losses, ``gvit train digits_paper``. Hardware: 2 CPU
cores, about 2 and 6 minutes. Expect: 98 to 100 % and 35 dB (``docs/experiments.md``, 2026-11-27 22:00);
``digits_paper``: see ``docs/results.md``.
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


def digits() -> TrainConfig:
    """The complete configuration."""
    return replace(
        digits_paper(),
        model=ModelConfig("gvit_tiny", looks=6),
        schedule=ScheduleConfig(
            reconstruct_epochs=0.75,
            perceptual_epochs=0.0,
            classify_epochs=21.75,
            guide_epochs=7.5,
            guide_every=10,
            gamma=0.1,
        ),
        objective=ObjectiveConfig(pixel_loss="psnr", perceptual_weight=0.0),
        optimizer=OptimizerConfig(base_lr=8e-3, warmup_epochs=1.2, clip_grad=1.0),
    )


def digits_paper() -> TrainConfig:
    """The complete configuration with the paper's encoder."""
    return TrainConfig(
        model=ModelConfig("gvit_tiny_denoising", scale_factor=0.7),
        data=DataConfig(
            dataset="digits",
            batch_size=64,
            crop_mode="squash",
            hflip=False,
            min_crop=1.0,
            rotate=10.0,
            translate=0.06,
            zoom=0.1,
        ),
        schedule=ScheduleConfig(
            reconstruct_epochs=7.5,
            perceptual_epochs=7.5,
            classify_epochs=75.0,
            guide_epochs=30.0,
            guide_every=10,
            gamma=0.1,
        ),
        objective=ObjectiveConfig(),
        optimizer=OptimizerConfig(base_lr=8e-3, warmup_epochs=5.0, clip_grad=1.0),
    )
