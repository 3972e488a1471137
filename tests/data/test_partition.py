from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deepprobe.data.partition import split_by_class


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0, 1), st.integers(0, 5))
def test_split_is_a_partition_with_the_class_shares(values: list[int], share: float, seed: int) -> None:
    labels, n_test = np.array(values), round(share * len(values))
    train, test = split_by_class(labels, n_test, seed=seed)
    assert sorted([*train, *test]) == list(range(len(labels)))
    assert len(test) == n_test
    for label in set(values):
        assert abs((labels[test] == label).sum() - values.count(label) * n_test / len(values)) < 1
    again = split_by_class(labels, n_test, seed=seed)
    assert np.array_equal(again[1], test)
