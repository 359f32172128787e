"""GViT on CIFAR-10 at 32x32, from Parquet files in the Hugging Face image convention.

Commands: ``gvit train cifar10 --data-dir FOLDER``; with the paper's encoder and losses, ``gvit train cifar10_paper``.
Hardware, time and number of the whole recipe: not yet measured. Twelve of its 30 epochs: see ``docs/results.md``.
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


def cifar10() -> TrainConfig:
    """The complete configuration."""
    return replace(
        cifar10_paper(),
        model=ModelConfig("gvit_tiny", num_gaussians=64, drop_path_rate=0.0, looks=8),
        schedule=ScheduleConfig(
            reconstruct_epochs=0.5,
            perceptual_epochs=0.0,
            classify_epochs=23.5,
            guide_epochs=6.0,
            eval_every=1.0,
        ),
        objective=ObjectiveConfig(pixel_loss="psnr", perceptual_weight=0.0),
    )


def cifar10_paper() -> TrainConfig:
    """The complete configuration with the paper's encoder."""
    return TrainConfig(
        model=ModelConfig("gvit_tiny_denoising", num_gaussians=64, drop_path_rate=0.0),
        data=DataConfig("parquet", batch_size=128, crop_pct=1.0, min_crop=0.5),
        schedule=ScheduleConfig(
            reconstruct_epochs=3.0,
            perceptual_epochs=3.0,
            classify_epochs=18.0,
            guide_epochs=6.0,
            eval_every=1.0,
        ),
        optimizer=OptimizerConfig(base_lr=4e-3, warmup_epochs=1.0, clip_grad=1.0),
    )
