"""The Gaussians of a whole data set, so that something else can be trained on them."""

from __future__ import annotations

import torch

from gvit.data.datasets import LabelledImages
from gvit.data.inputs import eval_input
from gvit.data.loading import EvaluationImages, evaluation_loader
from gvit.gaussians import Gaussians
from gvit.models.gvit import GViT


@torch.no_grad()
def collect_gaussians(
    model: GViT, images: LabelledImages, batch_size: int = 64, workers: int = 0
) -> Gaussians:
    """The Gaussians that a model's encoder predicts for every image, without augmentation.

    Args:
        model: is used on its device in evaluation mode, and comes back in the mode that it had.
        images: in this order; they are cropped as in the model's evaluation, so a model that is trained on the
            result wants ``crop_mode="squash"``: the crop has been done.
        batch_size: images at a time.
        workers: processes that load images.

    Returns:
        Raw [N, K, 9] on the CPU; ``gvit.data.collections.save_collection`` writes them.

    Raises:
        InputError: the data set holds no images, or one that can't be read.
    """
    source = EvaluationImages(images, eval_input(model, images))
    was_training, parameter = model.training, next(model.parameters())
    model.eval()
    raw = []
    for pictures, _ in evaluation_loader(source, batch_size, workers):
        gaussians = model.encode(pictures.to(parameter.device, parameter.dtype))
        raw.append(gaussians.raw.cpu())
    model.train(was_training)
    return gaussians.replace_raw(torch.cat(raw))
