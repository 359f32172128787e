"""From the labels that data come with to class indices and names."""

from __future__ import annotations

from collections.abc import Sequence

from gvit.errors import InputError

_MOST = (
    1_000_000  # classes; a larger number is a damaged label, for which there would have to be names below it
)


def index_classes(
    values: Sequence[int | str], known: Sequence[int | str], names: Sequence[str] | None = None
) -> tuple[list[int], list[str]]:
    """Labels of one split as class indices, and the names of the classes, which are those of both splits.

    Args:
        values: the split's, all of them whole numbers, or else names.
        known: those to train on.
        names: in the order of the indices, where the data have them. Without them, a number is its own name, and
            names are in alphabetical order.

    Raises:
        InputError: a label that is missing (None) or none of the classes, or a number without names that is a million
            or more.
    """
    for labels_of in (values, known):
        if None in labels_of:
            raise InputError(
                f"{labels_of.count(None)} of {len(labels_of)} images have no label, row {labels_of.index(None)} first"
            )
    if all(isinstance(value, int) for value in (*values, *known)):
        labels = [int(value) for value in values]
        count = max(map(int, known), default=-1) + 1 if names is None else len(names)
        if names is None and count > _MOST:
            raise InputError(
                f"label {count - 1}, where classes are numbered from 0 on: more than {_MOST:,} of them"
            )
        wrong = next((label for label in (*labels, *map(int, known)) if not 0 <= label < count), None)
        if wrong is not None:
            raise InputError(f"label {wrong}, where classes are numbered from 0 to {count - 1}")
        return labels, [str(label) for label in range(count)] if names is None else list(names)
    found = sorted({str(value) for value in known}) if names is None else list(names)
    index = {name: label for label, name in enumerate(found)}
    unknown = next((value for value in values if str(value) not in index), None)
    if unknown is not None:
        raise InputError(f"label {str(unknown)!r}, which is none of the {len(found)} classes to train on")
    return [index[str(value)] for value in values], found
