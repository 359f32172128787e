"""From labels to classes."""

import pytest

from gvit.data.sources.classes import index_classes
from gvit.errors import InputError


@pytest.mark.parametrize("names", [None, ["a", "b"]])
def test_a_label_that_is_missing_is_no_class(names):
    for values, known in (([0, None, None], [0, 1]), ([0], [0, None, None]), (["0", None, None], ["0", "1"])):
        with pytest.raises(InputError, match=r"^2 of 3 images have no label, row 1 first$"):
            index_classes(values, known, names)


def test_numbers_are_their_own_names_up_to_a_million_classes():
    assert index_classes([2, 0], [0, 2]) == ([2, 0], ["0", "1", "2"])
    with pytest.raises(InputError, match=r"^label 1000000, .* more than 1,000,000 of them"):
        index_classes([0], [0, 1_000_000])
    with pytest.raises(InputError, match="label -1"):
        index_classes([-1], [0, 1])
