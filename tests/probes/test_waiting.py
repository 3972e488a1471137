"""Rows that wait: what goes in comes out, whatever its shape and precision."""

from __future__ import annotations

import numpy as np

from deepprobe.probes.waiting import ENOUGH_ROWS, WaitingRows


def test_what_goes_in_comes_out_in_order() -> None:
    rng = np.random.default_rng(0)
    waiting, parts = WaitingRows(), [rng.standard_normal((64, 3, 4)).astype(np.float32) for _ in range(4)]
    for i, part in enumerate(parts):
        assert waiting.fits(part)
        assert not waiting.is_full
        waiting.add(part)
        assert waiting.is_full == (i == 3)
    assert not waiting.fits(parts[0])
    np.testing.assert_array_equal(waiting.take(), np.concatenate(parts))
    assert len(waiting.take()) == 0


def test_another_shape_or_precision_waits_for_room_of_its_own() -> None:
    waiting = WaitingRows()
    waiting.add(np.ones((8, 3, 4), dtype=np.float32))
    fine = np.full((8, 3, 4), 1 / 3)
    for other in (np.ones((8, 3, 2), dtype=np.float32), np.ones((8, 2, 4), dtype=np.float32), fine):
        assert not waiting.fits(other)
    waiting.take()
    waiting.add(fine)
    assert waiting.take()[0, 0, 0] == 1 / 3
    large = np.zeros((ENOUGH_ROWS, 3, 4))
    waiting.add(large)
    assert waiting.is_full
    assert waiting.take().shape == large.shape
