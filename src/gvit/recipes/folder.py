"""GViT on anyone's folder of photographs, small enough for a laptop's CPU: 64 px, 64 Gaussians.

It starts from the pretrained ``gvit_tiny.cifar10``, encoder and classifier, if gvit came with it. Batch, epochs,
warm-up and time between evaluations follow the number of training images (``gvit.training.scaling``).

Command: ``gvit train folder --data-dir FOLDER``, with ``FOLDER/CLASS/*.jpg`` or ``FOLDER/train/CLASS/*.jpg`` and
``FOLDER/val/CLASS/*.jpg``. Hardware, time and number: they depend on the folder.
"""

from gvit.training.config import (
    AUTO,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)


def folder() -> TrainConfig:
    """The complete configuration."""
    return TrainConfig(
        model=ModelConfig("gvit_tiny", init=AUTO, img_size=64, num_gaussians=64),
        data=DataConfig("folder", batch_size=None, min_crop=0.5),
        schedule=ScheduleConfig(
            reconstruct_epochs=2.0,
            perceptual_epochs=0.0,
            classify_epochs=48.0,
            guide_epochs=10.0,
            min_steps=600,
            eval_every=None,
        ),
        objective=ObjectiveConfig(pixel_loss="psnr", perceptual_weight=0.0),
        optimizer=OptimizerConfig(base_lr=8e-3, warmup_epochs=None, clip_grad=1.0),
    )
