"""Histograms by the bits of numbers, against NumPy's with the same edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepprobe.measures.histogram import N_BINS, Histogram, _edges


def counted(*tensors):
    histogram = Histogram()
    for tensor in tensors:
        histogram.update(tensor)
    (counts,) = histogram.tensors()
    return Histogram.bins(counts)


def test_counts_are_those_of_loops():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5000, generator=generator) * 10.0 ** torch.randint(-44, 38, (5000,), generator=generator)
    values = torch.cat(
        [values, -values[:100], torch.zeros(7), -torch.zeros(2), torch.tensor([1.0, 1.25, -1.25, 3.4e38])]
    )
    found, n_nonfinite = counted(values[:1001], values[1001:].reshape(2, -1, 1), torch.zeros(0))
    assert n_nonfinite == 0
    assert found.count.sum() == len(values)
    assert (np.diff(found.low) + np.diff(found.high) > 0).all()
    array = values.double().numpy()
    for low, high, count in zip(found.low, found.high, found.count, strict=True):
        inside = (array == 0) if low == high == 0 else (low <= array) & (array < high) & (array != 0)
        inside = (low < array) & (array <= high) & (array != 0) if low < 0 else inside
        assert inside.sum() == count


def test_edges_are_quarters_of_an_octave_without_gaps():
    low, high = _edges()
    assert len(low) == N_BINS - 7  # two signs lose infinity and NaN, and zero is its own
    inner = (low != 0) | (high != 0)
    np.testing.assert_array_equal(high[inner][:-1], low[inner][1:])
    normal = low >= 2.0**-126
    ratios = np.unique(high[normal] / low[normal])
    np.testing.assert_allclose(ratios, [8 / 7, 7 / 6, 6 / 5, 5 / 4])
    np.testing.assert_array_equal(low, -high[::-1])
    assert (low[0], high[-1]) == (-(2.0**128), 2.0**128)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_that_are_not_finite_are_counted_apart(dtype):
    found, n_nonfinite = counted(torch.tensor([1.0, torch.nan, torch.inf, -torch.inf, -2.0, 0.0], dtype=dtype))
    assert n_nonfinite == 3
    assert found.low.tolist() == [-2.5, 0.0, 1.0]
    assert found.high.tolist() == [-2.0, 0.0, 1.25]


def test_parts_add_up():
    values = 3 * torch.randn(1 << 12, generator=torch.Generator().manual_seed(1))
    whole, _ = counted(values)
    parts, _ = counted(*values.split(700))
    np.testing.assert_array_equal(whole.count, parts.count)


def test_float64_beyond_the_range_of_float32_is_neither_infinite_nor_zero():
    found, n_nonfinite = counted(
        torch.tensor([1e300, -1e40, 1e-300, -1e-50, 0.0, -0.0, torch.inf], dtype=torch.float64)
    )
    assert n_nonfinite == 1
    assert found.count.tolist() == [1, 1, 2, 1, 1]
    assert (found.low[0], found.high[-1]) == (-(2.0**128), 2.0**128)
    assert (found.high[1], found.low[3]) == (0.0, 0.0)
