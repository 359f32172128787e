"""From labels to classes."""

import pytest

from gvit.data.sources.classes import index_classes
from gvit.errors import InputError


def test_numbers_are_their_own_names_up_to_a_million_classes():
    assert index_classes([2, 0], [0, 2]) == ([2, 0], ["0", "1", "2"])
    with pytest.raises(InputError, match=r"^label 1000000, .* more than 1,000,000 of them"):
        index_classes([0], [0, 1_000_000])
    with pytest.raises(InputError, match="label -1"):
        index_classes([-1], [0, 1])
