"""Twenty steps over all four phases, on digits: does everything still compute the same?

Command: ``gvit train debug``. Hardware: 1 CPU core, seconds. Expect: the losses in ``tests/golden/debug_losses.json``.
"""

from gvit.training.config import DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig, TrainConfig


def debug() -> TrainConfig:
    """The complete configuration: 5 steps a phase, of which the first and the fourth guided one are guided."""
    return TrainConfig(
        model=ModelConfig("gvit_tiny_denoising", num_gaussians=16, drop_path_rate=0.1),
        data=DataConfig(
            "digits", batch_size=32, crop_mode="squash", hflip=False, min_crop=0.8, rotate=5.0, translate=0.05
        ),
        schedule=ScheduleConfig(
            epochs=20 / 44,  # an epoch has 44 steps
            reconstruct_epochs=1.0,
            perceptual_epochs=1.0,
            classify_epochs=1.0,
            guide_epochs=1.0,
            guide_every=3,
            eval_every=1.0,
        ),
        optimizer=OptimizerConfig(base_lr=1e-2, warmup_epochs=0.1, clip_grad=1.0),
    )
