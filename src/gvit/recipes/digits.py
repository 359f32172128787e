"""GViT on scikit-learn's handwritten digits, 8x8 enlarged to 32x32."""

from gvit.training.config import (
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)


def digits() -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(model="gvit_tiny", scale_factor=0.7),
        data=DataConfig(
            dataset="digits",
            batch_size=64,
            crop_mode="squash",
            hflip=False,
            min_crop=1.0,
            rotate=10,
            translate=0.06,
            zoom=0.1,
        ),
        schedule=ScheduleConfig(
            reconstruct_epochs=10, perceptual_epochs=10, classify_epochs=55, guide_epochs=25, gamma=0.1
        ),
        objective=ObjectiveConfig(),
        optimizer=OptimizerConfig(base_lr=8e-3, warmup_epochs=5, clip_grad=1.0),
    )
