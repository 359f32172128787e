"""``kanezaki``: one blob per segment of a network that learns to segment this one image, without any labels.

Kanezaki, "Unsupervised Image Segmentation by Backpropagation", ICASSP 2018, Algorithm 1: a small convolutional
network gives each pixel a cluster; within each superpixel the clusters are set to the most frequent one; and the
network is trained, by cross-entropy, to give those. What differs from the paper: the image is made smaller first
(a longer side of 128 pixels), and the network is narrower (48 channels instead of 100), both for the sake of time.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from gvit.fitting.blobs import Blobs
from gvit.fitting.regions import region_blobs

LONGER_SIDE = 128
CHANNELS = 48
STEPS = 40
_SUPERPIXELS = 400
_SUPERPIXEL_SIZE = 16  # of small images, in pixels


def kanezaki_blobs(image: Float[Tensor, "3 h w"], count: int, generator: torch.Generator) -> Blobs:
    """Moments of the connected parts of the clusters; the largest parts are cut up to make ``count``."""
    from skimage.measure import label

    height, width = image.shape[-2:]
    shrink = min(1.0, LONGER_SIDE / max(height, width))
    size = max(1, round(height * shrink)), max(1, round(width * shrink))
    small = F.interpolate(image[None], size, mode="area")[0] if shrink < 1 else image
    clusters = _cluster(small, generator)
    # label() takes 0 for background
    parts = torch.from_numpy(label(clusters.numpy() + 1, connectivity=1))
    full = F.interpolate(parts[None, None].double(), (height, width), mode="nearest")[0, 0]
    return region_blobs(image, full.long().numpy(), count, generator)


class _Network(nn.Sequential):
    """[1, 3, H, W] to [1, CHANNELS, H, W]: how well each pixel fits each cluster."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for channels in (3, CHANNELS):
            convolution = nn.Conv2d(channels, CHANNELS, 3, padding=1)
            layers += [convolution, nn.ReLU(), nn.BatchNorm2d(CHANNELS)]
        super().__init__(*layers, nn.Conv2d(CHANNELS, CHANNELS, 1), nn.BatchNorm2d(CHANNELS))


def _cluster(image: Float[Tensor, "3 h w"], generator: torch.Generator) -> Int[Tensor, "h w"]:
    from skimage.segmentation import slic

    if image[0].numel() == 1:  # nothing to cluster, and no variance to normalise by
        return torch.zeros(1, 1, dtype=torch.int64)
    pixels = image.permute(1, 2, 0).numpy().astype(np.float64)
    wanted = max(1, min(_SUPERPIXELS, pixels[..., 0].size // _SUPERPIXEL_SIZE))
    superpixels = slic(pixels, n_segments=wanted, compactness=10, start_label=0)
    superpixel = torch.from_numpy(superpixels).flatten()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        network = _Network()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        for _ in range(STEPS):
            response = network(image[None]).squeeze(0).flatten(1).T
            cluster = response.argmax(1)
            votes = torch.zeros(int(superpixel.max()) + 1, CHANNELS)
            votes.index_put_((superpixel, cluster), torch.ones(len(cluster)), accumulate=True)
            optimizer.zero_grad()
            F.cross_entropy(response, votes.argmax(1)[superpixel]).backward()
            optimizer.step()
            if votes.argmax(1).unique().numel() <= 2:  # before everything is one
                break
    return cluster.view(image.shape[-2:])
