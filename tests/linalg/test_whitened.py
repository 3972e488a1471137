"""The whitened Gram matrix against float64 QR, on streams that look like their first rows and on some that do not."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from toys import blocks_of, known_spectrum

from deepprobe.errors import ShapeError
from deepprobe.linalg.streaming_qr import StreamingQR
from deepprobe.linalg.whitened import WhitenedGram
from deepprobe.measures.conditioning import spectrum
from deepprobe.records.spectrum import Spectrum

EPS = np.finfo(np.float64).eps
CUTS = [100, 180, 300, 420, 2000]


def both(rows: np.ndarray, cuts: list[int] = CUTS) -> tuple[Spectrum, Spectrum]:
    found = []
    for accumulator in (WhitenedGram(rows.shape[1]), StreamingQR(rows.shape[1])):
        for blocks in blocks_of(rows, [c for c in cuts if c < len(rows)]):
            accumulator.update(blocks)
        found.append(spectrum(accumulator.result()))
    return found[0], found[1]


def within(found: Spectrum, exact: Spectrum) -> None:
    """What is said holds: every value lies within delta of the exact one, and the interval has κ in it."""
    errors = np.abs(found.singular_values - exact.singular_values)
    assert errors.max(initial=0.0) <= found.delta + exact.delta
    if exact.status not in {"finite", "singular-at-precision"}:
        return
    assert found.condition_number_low <= exact.condition_number_high
    assert exact.condition_number_low <= found.condition_number_high


def stationary(kappa: float, n: int = 4096, d: int = 16, seed: int = 0) -> np.ndarray:
    rows = known_spectrum(n, np.geomspace(1, 1 / kappa, d), seed=seed)
    return rows[np.random.default_rng(seed).permutation(n)]


@pytest.mark.parametrize("kappa", [1e2, 1e6, 1e10, 1e12])
@pytest.mark.parametrize("cuts", [CUTS, [1, 2, 3, 70], []], ids=["portions", "small first", "whole"])
def test_stationary_streams_are_resolved(kappa: float, cuts: list[int]) -> None:
    rows = stationary(kappa)
    found, exact = both(rows, cuts)
    within(found, exact)
    assert found.resolution < 1e-12
    assert np.abs(found.singular_values / exact.singular_values - 1).max() <= 20 * EPS * kappa
    assert found.status == ("finite" if kappa < 1e12 else found.status)
    assert found.centred is not None
    assert exact.centred is not None
    assert np.abs(found.centred.singular_values - exact.centred.singular_values).max() <= found.centred.delta


def drifting_copy() -> np.ndarray:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((4096, 16))
    rows[:, 7] = rows[:, 3] + 1e-9 * rng.standard_normal(4096) * np.linspace(0.1, 1, 4096)
    return rows


def dead_in_the_first_half() -> np.ndarray:
    rows = np.random.default_rng(2).standard_normal((4096, 16))
    rows[:2048, 5] = 0
    return rows


def unrelated_halves() -> np.ndarray:
    return np.concatenate([stationary(1e10, 2048, seed=3), stationary(1e10, 2048, seed=8)])


def growing() -> np.ndarray:
    return np.concatenate([stationary(1e3, 512, seed=4), 1e8 * stationary(1e13, 2048, seed=9)])


@pytest.mark.parametrize("stream", [drifting_copy, dead_in_the_first_half])
def test_streams_that_change_are_still_resolved(stream) -> None:
    found, exact = both(stream())
    within(found, exact)
    assert (found.status, exact.status) == ("finite", "finite")
    assert found.condition_number == pytest.approx(exact.condition_number, rel=1e-5)


@pytest.mark.parametrize("stream", [unrelated_halves, growing])
def test_streams_that_defeat_it_are_not_claimed(stream) -> None:
    """Its own bound grows with the damage: what it says stays true, and it says little."""
    found, exact = both(stream())
    within(found, exact)
    assert found.resolution > 1e-12
    assert found.delta > exact.delta


def test_what_it_says_holds_for_streams_of_any_kind() -> None:
    """Parts of other scales, mixtures and offsets than the first, in any portions."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        d, parts = int(rng.integers(2, 12)), []
        for _ in range(rng.integers(1, 4)):
            part = rng.standard_normal((int(rng.integers(1, 300)), d)) * 10.0 ** rng.uniform(-6, 6, d)
            mixture = rng.standard_normal((d, d)) * 10.0 ** rng.uniform(-8, 8)
            parts.append(part @ mixture + rng.choice([0.0, 1.0]) * 10.0 ** rng.uniform(-3, 6))
        rows = np.concatenate(parts)
        found, exact = both(rows, sorted(rng.integers(0, len(rows), 3).tolist()))
        assert found.centred is not None
        assert exact.centred is not None
        within(found, exact)
        within(found.centred, exact.centred)


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_constant_units_are_exact(value: float) -> None:
    rows = np.random.default_rng(0).standard_normal((900, 6)) + 1e3
    rows[:, 2] = value
    found, exact = both(rows)
    assert found.status == exact.status
    assert (found.units.n_dead, found.units.n_constant) == (exact.units.n_dead, exact.units.n_constant)
    assert found.reasons == exact.reasons
    assert found.condition_number_live == pytest.approx(exact.condition_number_live, rel=1e-9)
    assert found.centred is not None
    assert exact.centred is not None
    assert found.centred.condition_number_live == pytest.approx(exact.centred.condition_number_live, rel=1e-9)


def test_a_dependent_unit_is_singular_at_precision() -> None:
    rows = np.random.default_rng(0).standard_normal((900, 6))
    rows[:, 4] = rows[:, 0] - 2 * rows[:, 1]
    assert both(rows)[0].status == "singular-at-precision"


@pytest.mark.parametrize("n", [0, 1, 5, 20])
def test_few_rows_are_kept_as_they_are(n: int) -> None:
    found, exact = both(np.random.default_rng(n).standard_normal((n, 8)), [2])
    assert (found.status, found.n_rows) == (exact.status, n)
    np.testing.assert_allclose(found.singular_values, exact.singular_values, rtol=1e-12)


def test_portions_that_are_not_finite_are_left_out() -> None:
    rows = stationary(1e8)
    parts = np.split(rows, [300, 600, 900])
    for spoilt in (0, 2):
        bad = [part.copy() for part in parts]
        bad[spoilt][4, 3] = np.nan
        bad[spoilt][9, 2] = np.inf
        whitened = WhitenedGram(16, count_nonfinite=True)
        for part in bad:
            whitened.update(part.T[None])
        assert whitened.notes == (1, 2, 2)
        kept = np.concatenate([part for i, part in enumerate(parts) if i != spoilt])
        found, exact = spectrum(whitened.result()), np.linalg.svd(kept, compute_uv=False)
        assert found.n_rows == len(kept)
        np.testing.assert_allclose(found.singular_values, exact, rtol=1e-6)


def test_merged_through_pickle() -> None:
    rows = stationary(1e9)
    parts = []
    for part in np.split(rows, [1000, 1030, 1040]):
        one = WhitenedGram(16)
        one.update(part.T[None])
        parts.append(pickle.loads(pickle.dumps(one.holding(one.tensors()))))
    total = WhitenedGram(16)
    for one in parts:
        total.merge(one)
    found, exact = spectrum(total.result()), both(rows)[1]
    assert total.n_rows == found.n_rows == 4096
    within(found, exact)
    np.testing.assert_allclose(found.singular_values, exact.singular_values, rtol=20 * EPS * 1e9)
    with pytest.raises(ShapeError, match="cannot merge 4 columns into 16"):
        total.merge(WhitenedGram(4))
    with pytest.raises(ShapeError, match=r"rows of shape \(1, 4, 7\) do not fit \(b, 16, p\)"):
        total.update(np.zeros((1, 4, 7)))
