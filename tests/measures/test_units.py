"""Counts of units over all rows, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from deepprobe.measures.units import UnitCounter

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(4, 7, 3), (64, 7, 256), (5000, 7, 1), (3, 7, 9000)])
@pytest.mark.parametrize("order", ["images", "channels-last"])
def test_against_loops(shape: tuple[int, int, int], order: str) -> None:
    blocks = np.maximum(RNG.standard_normal(shape), 0).astype(np.float32)
    blocks[:, 1] = 0  # dead
    blocks[:, 2] = 0
    blocks[-1, 2, -1] = 1e-42  # fires once, in the last row, with a subnormal number
    blocks[:, 3] = 2.5  # constant
    blocks[:, 4] = 2.5
    blocks[shape[0] // 2, 4, 0] = 2.25  # constant but for one row
    blocks[:, 5] = 0
    blocks[0, 5, 0] = 1.0
    given = blocks if order == "images" else np.ascontiguousarray(blocks.transpose(0, 2, 1)).transpose(0, 2, 1)
    counter = UnitCounter(7)
    for part in np.array_split(given, 3):
        counter.update(part)
    units = counter.result(n_duplicate=2)
    fired = [int((blocks[:, i] != 0).sum()) for i in range(7)]
    assert units.n_dead == sum(f == 0 for f in fired) == 1
    assert units.n_constant == 2
    assert units.n_rare == sum(0 < f < 50 for f in fired)
    assert units.n_duplicate == 2


def test_a_unit_that_changes_only_between_batches_is_not_constant() -> None:
    counter = UnitCounter(1)
    counter.update(np.ones((10, 1, 300)))
    assert counter.result().n_constant == 1
    counter.update(np.full((10, 1, 300), 2.0))
    assert counter.result().n_constant == 0


def test_nonfinite_values_are_counted_and_the_first_unit_named() -> None:
    blocks = np.ones((4, 5, 6))
    blocks[1, 3, 2], blocks[2, 2, 0], blocks[3, 4, 1] = np.nan, np.inf, -np.inf
    counter = UnitCounter(5)
    assert counter.note_nonfinite(blocks) == 3
    assert counter.note_nonfinite(np.ones((1, 5, 1))) == 0
    units = counter.result()
    assert (units.n_nonfinite, units.first_nonfinite) == (3, 2)


def test_nothing() -> None:
    counter = UnitCounter(3)
    counter.update(np.zeros((0, 3, 4)))
    assert counter.result().n_dead == 0
