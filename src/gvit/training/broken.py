"""Images that a run could not read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from gvit.data.sources import Source, Split
from gvit.errors import InputError, option, wording
from gvit.training.feed import Feed
from gvit.training.observers.base import BrokenImage, Observer


@dataclass
class BrokenImages:
    """Those met so far.

    Attributes:
        feed: what is read.
        largest: share of the training images that may be broken.
        known: of each split, what is wrong with them by their index.
    """

    feed: Feed
    largest: float
    known: dict[Split, dict[int, str]] = field(default_factory=lambda: {"train": {}, "test": {}})

    def tell(self, split: Split, found: Mapping[int, str], step: int, listening: Sequence[Observer]) -> None:
        """Each image once."""
        known = self.known[split]
        for index in sorted(found.keys() - known.keys()):
            known[index] = found[index]
            total = len(self.feed.train if split == "train" else self.feed.test)
            for observer in listening:
                observer.broken(BrokenImage(step, split, index, found[index], len(known), total))

    @property
    def _sources(self) -> dict[Split, Source]:
        return {"train": self.feed.train, "test": self.feed.test}

    def state(self) -> dict[Split, list[str]]:
        """What they are called: after an interruption, the data may have other rows."""
        return {
            split: [of.keys[row] for row in sorted(self.known[split])] for split, of in self._sources.items()
        }

    def load_state(self, state: Mapping[Split, Collection[str]]) -> None:
        """Those that are still there and still can't be read."""
        for split, source in self._sources.items():
            called = set(state.get(split, ()))
            rows = [row for row, key in enumerate(source.keys) if key in called] if called else []
            errors = {row: _unread(source, row) for row in rows}
            self.known[split] = {row: error for row, error in errors.items() if error is not None}

    def check(self) -> None:
        """See to it that they are few; one is, of any number, unless none is allowed.

        Raises:
            InputError: they are not.
        """
        known, total = self.known["train"], len(self.feed.train)
        if len(known) > max(self.largest * total, self.largest > 0):
            finds = wording("gvit.data.checking.check_folder", "'gvit data check DIR'")
            raise InputError(
                f"{len(known)} of {total} training images cannot be read so far, more than "
                f"{option('max_broken', self.largest)} allows; {finds} finds all of them, and the run "
                f"can be resumed when they are mended or removed. The last: {list(known.values())[-1]}"
            )


def _unread(source: Source, row: int) -> str | None:
    """What is wrong with an image; None where it can be read."""
    try:
        source.load(row)
    except InputError as error:
        return error.args[0]
    return None
