"""``kmeans``: pixels that are near each other in place and colour become one blob."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gvit.fitting.blobs import Blobs, mean_spacing
from gvit.fitting.regions import region_blobs

# A difference of 0.2 in one channel weighs as much as the mean distance between blobs.
COLOR_WEIGHT = 5.0


def kmeans_blobs(image: Float[Tensor, "3 h w"], count: int, generator: torch.Generator) -> Blobs:
    """Moments of the clusters that scikit-learn's mini-batch k-means finds in (x, y, r, g, b)."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    height, width = image.shape[-2:]
    rows, columns = np.mgrid[:height, :width]
    places = np.stack((columns, rows), -1).reshape(-1, 2) / mean_spacing(height, width, count)
    colors = COLOR_WEIGHT * image.flatten(1).T.numpy()
    features = np.concatenate((places, colors), 1).astype(np.float32)
    clusters = MiniBatchKMeans(
        min(count, len(features)),
        batch_size=max(4096, 2 * count),
        max_iter=10,
        n_init=1,
        random_state=int(torch.randint(2**31, (), generator=generator)),
    )
    with warnings.catch_warnings():
        # fewer distinct pixels than clusters: the regions are cut further
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = clusters.fit_predict(features)
    return region_blobs(image, labels.reshape(height, width), count, generator)
