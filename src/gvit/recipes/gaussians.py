"""GViT's classifier on Gaussians that stand still, of ``gvit fit`` for example, small enough for a laptop's CPU.

Command: ``gvit fit PHOTOS --out FITS && gvit train gaussians --data-dir FITS``, with ``PHOTOS/CLASS/*.jpg`` all of one
aspect. Hardware, time and number: they depend on the data.
"""

from gvit.training.config import DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig, TrainConfig


def gaussians() -> TrainConfig:
    """The complete configuration: one phase, and the whole canvas in evaluation, whatever its aspect."""
    return TrainConfig(
        model=ModelConfig("gaussian_vit_tiny", img_size=64),
        data=DataConfig("gaussians", batch_size=64, crop_mode="squash", min_crop=0.5),
        schedule=ScheduleConfig(
            reconstruct_epochs=0.0, perceptual_epochs=0.0, classify_epochs=80.0, guide_epochs=0.0
        ),
        optimizer=OptimizerConfig(base_lr=8e-3, warmup_epochs=5.0, clip_grad=1.0),
    )
