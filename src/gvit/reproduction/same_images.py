"""Whether jobs of one table have, and had, the same images."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from gvit.training.config import DataConfig, TrainConfig
from gvit.training.distributed import ALONE
from gvit.training.feed import Feed
from gvit.training.run import Run


@functools.cache
def data_now(data: DataConfig) -> tuple[int, str]:
    """Steps an epoch, and a checksum of the names and labels of both splits."""
    feed = Feed(TrainConfig(data=data), ALONE)
    return feed.steps_per_epoch, _checksum(feed)


def checksum_of(config: TrainConfig, folder: Path) -> str:
    """The checksum of the images of a run, which may have begun with fewer than there are by now."""
    recorded = Run(folder).load_split()
    if recorded is None:
        return data_now(config.data)[1]
    return _checksum(Feed(config, ALONE, recorded))


def _checksum(feed: Feed) -> str:
    digest = hashlib.sha256()
    for source in (feed.train, feed.test):
        for key, label in zip(source.keys, source.labels, strict=True):
            digest.update(f"{key}\0{label}\n".encode("utf-8", "surrogateescape"))
        digest.update(b"\0")
    return digest.hexdigest()
