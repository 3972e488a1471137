"""Numbers of units from a stream, against NumPy on the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepprobe.measures.tuning import class_selectivity, class_variance_share, lifetime_sparseness
from deepprobe.measures.unit_moments import UnitMoments


def stream(batches, classes=None, *, flat=None):
    moments = UnitMoments(batches[0].shape[1], flat=flat)
    for i, batch in enumerate(batches):
        moments.update(batch, None if classes is None else classes[i])
    return moments.numbers(moments.tensors())


def rows_of(batches):
    return np.concatenate([b.double().permute(0, 2, 1).reshape(-1, b.shape[1]).numpy() for b in batches])


@pytest.fixture(scope="module")
def maps():
    generator = torch.Generator().manual_seed(0)
    whole = torch.relu(1e4 + 3 * torch.randn(37, 5, 12, generator=generator)) - 1e4
    whole[:, 1] = 0.0
    whole[:, 3] = whole[:, 0]
    whole[:, 4] = torch.relu(whole[:, 4])
    return whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cuts", [[37], [1, 35, 1], [10, 27]])
def test_any_split_gives_the_numbers_of_the_whole(maps, cuts, dtype):
    maps = maps.to(dtype)
    found = stream(list(maps.split(cuts)), flat=(-1.0, 1.0))
    rows = rows_of([maps])
    assert found.n_rows == 37 * 12
    np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.variance, rows.var(0), rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(found.least, rows.min(0))
    np.testing.assert_array_equal(found.greatest, rows.max(0))
    np.testing.assert_array_equal(found.fired, (rows != 0).sum(0))
    np.testing.assert_array_equal(found.saturated, (np.abs(rows) >= 1).sum(0))
    samples = maps.double().mean(2).numpy()
    np.testing.assert_allclose(found.mean_se, samples.std(0, ddof=1) / np.sqrt(37), rtol=1e-10)
    shares = (maps != 0).double().mean(2).numpy()
    np.testing.assert_allclose(found.firing_se, shares.std(0, ddof=1) / np.sqrt(37), rtol=1e-10, atol=1e-16)
    assert found.duplicate_of.tolist() == [-1, -1, -1, 0, -1]


def test_many_numbers_are_taken_in_parts():
    values = torch.randn(300, 70, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = stream([values])
    rows = rows_of([values])
    np.testing.assert_allclose(found.variance, rows.var(0), rtol=1e-12)
    assert (found.duplicate_of == -1).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_one_bit_in_one_row_makes_units_differ(dtype):
    values = torch.randn(64, 3, 9, generator=torch.Generator().manual_seed(2)).to(dtype)
    values[:, 1] = values[:, 0]
    values[:, 2] = values[:, 0]
    values[41, 2, 5] = torch.nextafter(values[41, 2, 5].float(), torch.tensor(9.0)).to(dtype)
    if dtype in {torch.float16, torch.bfloat16}:
        values[41, 2, 5] = values[41, 0, 5] * 1.01
    assert stream(list(values.split(20))).duplicate_of.tolist() == [-1, 0, -1]


def test_opposite_units_are_not_the_same():
    values = torch.randn(64, 2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    values[:, 1] = -values[:, 0]
    values = torch.cat([values, -values])  # least, greatest and firing agree
    assert stream([values]).duplicate_of.tolist() == [-1, -1]


def test_negative_zero_is_zero():
    values = torch.rand(8, 2, 1)
    values[:, 1] = values[:, 0]
    values[3] = torch.tensor([[0.0], [-0.0]])
    assert stream([values]).duplicate_of.tolist() == [-1, 0]


def test_samples_that_are_not_finite_are_left_out_of_that_unit(maps):
    spoilt = maps.clone()
    spoilt[5, 2, 7], spoilt[6, 2, 0] = torch.nan, -torch.inf
    found, clean = stream(list(spoilt.split(9))), stream([maps])
    kept = np.delete(maps.double().numpy(), [5, 6], axis=0)[:, 2]
    assert found.samples.tolist() == [37, 37, 35, 37, 37]
    assert found.mean[2] == pytest.approx(kept.mean(), rel=1e-12)
    assert found.variance[2] == pytest.approx(kept.var(), rel=1e-12)
    assert found.fired[2] == np.count_nonzero(kept)
    np.testing.assert_allclose(found.variance[[0, 1, 3, 4]], clean.variance[[0, 1, 3, 4]], rtol=1e-12)
    lost = stream([torch.full((3, 1, 2), torch.nan)])
    assert np.isnan([lost.mean[0], lost.variance[0], lost.least[0]]).all()
    assert lost.samples[0] == 0


def test_class_means_are_those_of_loops(maps):
    labels = torch.arange(37) % 3
    one_hot = torch.eye(3, dtype=torch.float64)[labels]
    narrow = one_hot[:2, :2]  # the third class is not known yet
    found = stream([maps[:2], maps[2:]], [narrow, one_hot[2:]])
    for c in range(3):
        rows = rows_of([maps[labels == c]])
        np.testing.assert_allclose(found.class_means[c], rows.mean(0), rtol=1e-12, atol=1e-14)
        assert (found.class_rows[c] == len(rows)).all()


def test_selectivity_is_the_papers():
    means = np.array([[4.0, 1.0, 0.0, 2.0], [1.0, 1.0, 0.0, -1.0], [2.0, 1.0, 0.0, 0.0], [np.nan] * 4])
    index, preferred = class_selectivity(means)
    np.testing.assert_allclose(index, [(4 - 1.5) / (4 + 1.5), 0.0, np.nan, np.nan])
    assert preferred[0] == 0
    assert np.isnan(preferred[2:]).all()
    assert np.isnan(class_selectivity(means[:1])[0]).all()
    assert class_selectivity(np.zeros((0, 4)))[0].shape == (4,)


def test_variance_between_classes_is_that_of_loops():
    rng = np.random.default_rng(0)
    labels, values = rng.integers(0, 4, 200), rng.normal(size=(200, 3))
    values[:, 1] += labels
    values[:, 2] = labels == 1
    means = np.array([values[labels == c].mean(0) for c in range(4)])
    rows = np.array([[np.sum(labels == c)] * 3 for c in range(4)], dtype=float)
    expected = []
    for unit in values.T:
        between = sum(np.sum(labels == c) * (unit[labels == c].mean() - unit.mean()) ** 2 for c in range(4))
        expected.append(between / np.sum((unit - unit.mean()) ** 2))
    found = class_variance_share(means, rows, values.var(0))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[2] == pytest.approx(1.0)


def test_sparseness_of_one_row_in_n_is_one_and_of_all_alike_zero():
    values = np.array([[1.0, 2.0, 0.0, -1.0], [0.0, 2.0, 0.0, 1.0], [0.0, 2.0, 0.0, 0.0]])
    found = lifetime_sparseness(values.mean(0), values.var(0), np.full(4, 3.0), values.min(0))
    np.testing.assert_allclose(found, [1.0, 0.0, np.nan, np.nan], atol=1e-15)
