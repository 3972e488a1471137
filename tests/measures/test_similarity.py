"""Similarity from streams, against NumPy and SciPy on whole matrices and loops over the papers' formulas."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from deepprobe.measures.similarity import Covariances, Grams, gram, linear_cka, principal_angles, u_centre_

WIDTHS = (3, 7, 5, 2)


def layers(n=60, seed=0, offset=0.0):
    """Representations that share some directions; the last is a rotation of the first two columns of the first."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 4))
    found = [common @ rng.normal(size=(4, d)) + 0.3 * rng.normal(size=(n, d)) + offset for d in WIDTHS]
    return [torch.from_numpy(x) for x in found]


def reference(x, y):
    """Equation 5 of Kornblith et al., written out."""
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def by_covariances(parts, cuts):
    sums = Covariances([p.shape[1] for p in parts])
    for batch in zip(*(p.split(cuts) for p in parts), strict=True):
        sums.update(batch)
    return sums


def by_grams(parts, cuts, *, unbiased):
    sums = Grams(unbiased=unbiased)
    for batch in zip(*(p.split(cuts) for p in parts), strict=True):
        sums.update([gram(p) for p in batch])
    return sums


def cka(sums):
    return linear_cka(sums.products(sums.tensors()))


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("cuts", [[60], [1, 58, 1], [17, 30, 13]])
def test_any_split_gives_the_whole_exactly(cuts, offset):
    parts = layers(offset=offset)
    arrays = [p.numpy() for p in parts]
    expected = [[reference(x, y) for y in arrays] for x in arrays]
    tolerance = 1e-12 if offset == 0 else 1e-8
    np.testing.assert_allclose(cka(by_covariances(parts, cuts)), expected, rtol=tolerance)
    np.testing.assert_allclose(cka(by_grams(parts, [60], unbiased=False)), expected, rtol=tolerance)


@pytest.mark.parametrize("way", [lambda p: by_covariances(p, [25, 35]), lambda p: by_grams(p, [25, 35], unbiased=True)])
def test_rotations_and_isotropic_scalings_are_not_seen(way):
    x, y, *_ = layers()
    rotation = torch.from_numpy(scipy.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0])
    found = cka(way([x, 1e-5 * x @ rotation + 3.0, y]))
    assert found[0, 1] == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(found.diagonal(), 1.0, rtol=1e-15)
    stretched = cka(way([x, x * torch.tensor([1.0, 10.0, 0.1])]))
    assert stretched[0, 1] < 0.99


def test_the_unbiased_estimate_is_the_papers():
    parts = layers(n=23)
    expected = np.zeros((4, 4))
    for start, stop in ((0, 9), (9, 16), (16, 23)):
        n, ones = stop - start, np.ones(stop - start)
        grams = [p[start:stop].numpy() @ p[start:stop].numpy().T for p in parts]
        for i, k in enumerate(grams):
            for j, other in enumerate(grams):
                kt, lt = k - np.diag(np.diag(k)), other - np.diag(np.diag(other))
                value = np.trace(kt @ lt) + (ones @ kt @ ones) * (ones @ lt @ ones) / ((n - 1) * (n - 2))
                value -= 2 / (n - 2) * ones @ kt @ lt @ ones
                expected[i, j] += n * value / (n * (n - 3))
    sums = by_grams(parts, [9, 7, 7], unbiased=True)
    np.testing.assert_allclose(sums.products(sums.tensors()).inner, expected, rtol=1e-10, atol=1e-12)
    own = np.sqrt(expected.diagonal())
    np.testing.assert_allclose(cka(sums), expected / own[:, None] / own, rtol=1e-10, atol=1e-12)


def test_the_unbiased_estimate_of_strangers_is_near_zero_where_the_plain_one_is_not():
    rng = np.random.default_rng(0)
    parts = [torch.from_numpy(rng.normal(size=(640, 400))) for _ in range(2)]
    assert cka(by_grams([p[:64] for p in parts], [64], unbiased=False))[0, 1] > 0.8
    assert abs(cka(by_grams(parts, [64] * 10, unbiased=True))[0, 1]) < 0.05


def test_u_centred_matrices_have_no_diagonal_and_no_sums():
    found = u_centre_(torch.stack([gram(x)[0] for x in layers()]))
    assert (found.diagonal(dim1=1, dim2=2) == 0).all()
    assert found.sum(1).abs().max() < 1e-10


def test_fewer_than_four_samples_count_for_nothing():
    parts = layers(n=23)
    with_rest, without = by_grams(parts, [20, 3], unbiased=True), by_grams([p[:20] for p in parts], [20], unbiased=True)
    np.testing.assert_array_equal(cka(with_rest), cka(without))
    assert by_grams([p[:3] for p in parts], [3], unbiased=True).tensors() == []


@pytest.mark.parametrize("way", [
    lambda p: by_covariances(p, [20, 40]), lambda p: by_grams(p, [60], unbiased=False),
    lambda p: by_grams(p, [20, 40], unbiased=True),
])  # fmt: skip
def test_dead_constant_and_broken_layers_are_nan_and_leave_the_others_alone(way):
    x, y, z, _ = layers()
    constant = torch.full((60, 2), 0.1, dtype=torch.float32).double()
    noise = 5.0 + 1e-9 * z  # less than float32 could hold
    broken = z.clone()
    broken[13, 1] = torch.nan
    sums = way([x, torch.zeros(60, 4).double(), constant, noise, broken, y])
    products = sums.products(sums.tensors())
    statuses = products.statuses([2.0**-24] * 6)
    assert statuses == ["finite", "constant", "constant", "constant", "nonfinite", "finite"]
    found, clean = linear_cka(products), cka(way([x, y]))
    assert np.isnan(found[4]).all()
    assert np.isnan(found[1]).all()
    assert found[0, 5] == pytest.approx(clean[0, 1], rel=1e-12)


@pytest.mark.parametrize("cuts", [[60], [17, 30, 13]])
def test_angles_are_scipys(cuts):
    parts = layers()
    sums = by_covariances(parts, cuts)
    both = [sums.directions(sums.tensors(), 2), by_grams(parts, [60], unbiased=False).directions(2)]
    left = [np.linalg.svd(p.numpy() - p.numpy().mean(0), full_matrices=False)[0] for p in parts]
    for found in both:
        for i in range(4):
            for j in range(4):
                expected = np.sort(scipy.linalg.subspace_angles(left[i][:, :2], left[j][:, :2]))
                np.testing.assert_allclose(principal_angles(found, i, j, count=2), expected, atol=1e-6)


def test_fewer_directions_than_asked_for_have_value_zero():
    parts = layers()
    sums = by_covariances(parts, [60])
    found = sums.directions(sums.tensors(), 6)
    singular = [np.linalg.svd(p.numpy() - p.numpy().mean(0), compute_uv=False) for p in parts]
    for i, values in enumerate(singular):
        np.testing.assert_allclose(found.values[i, : min(6, len(values))], values[:6] ** 2, rtol=1e-9)
        assert (found.values[i, len(values) :] == 0).all()
