"""An encoder for photographs of any kind: 32 to 1,024 Gaussians, reconstruction only, so classes don't matter.

Command: ``gvit train photos --data-dir FOLDER``, with ``FOLDER/train/CLASS/*.jpg`` and ``FOLDER/val/CLASS/*.jpg``.
Hardware, time and number: see the card of ``gvit_tiny.photos``.
"""

from gvit.training.config import (
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)


def photos() -> TrainConfig:
    """The complete configuration."""
    return TrainConfig(
        model=ModelConfig("gvit_tiny", img_size=128, num_gaussians=128),
        data=DataConfig("folder", batch_size=64, crop_pct=1.0, min_crop=0.3),
        schedule=ScheduleConfig(
            reconstruct_epochs=100.0,
            perceptual_epochs=0.0,
            classify_epochs=0.0,
            guide_epochs=0.0,
            eval_every=5.0,
        ),
        objective=ObjectiveConfig(pixel_loss="psnr", perceptual_weight=0.0, gaussians_range=(32, 1024)),
        optimizer=OptimizerConfig(base_lr=8e-3, warmup_epochs=2.0, clip_grad=1.0),
    )
