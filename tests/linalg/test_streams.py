"""Streams with known spectra: every singular value within 20 eps κ, every status and rank right, in any portions."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import blocks_of, known_spectrum

from deepprobe.errors import ShapeError
from deepprobe.linalg.decompose import singular_values
from deepprobe.linalg.gram import GramAccumulator
from deepprobe.linalg.rows import Rows
from deepprobe.linalg.streaming_qr import StreamingQR
from deepprobe.linalg.wide_rows import WideRows
from deepprobe.measures.conditioning import Subject, spectrum
from deepprobe.records.spectrum import Spectrum

EPS = np.finfo(np.float64).eps
CUTS = {
    "whole": [],
    "uneven": [1, 2, 50, 51, 128, 200],
    "with-empty": [0, 0, 64, 64, 130],
    "rows": list(range(1, 256)),
}


def streamed(rows: np.ndarray, cuts: list[int], accumulator: type = StreamingQR) -> Spectrum:
    accumulated = accumulator(rows.shape[1])
    for blocks in blocks_of(rows, cuts):
        accumulated.update(blocks)
    return spectrum(accumulated.result(), Subject(dtype=str(rows.dtype)))


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize("d", [4, 16, 64])
@pytest.mark.parametrize("kappa", [1e2, 1e4, 1e6, 1e8, 1e10, 1e12, 1e14])
def test_known_condition_number(kappa: float, d: int, cuts: list[int]) -> None:
    """84 streams, float64."""
    sigma = np.geomspace(1, 1 / kappa, d)
    found = streamed(known_spectrum(256, sigma), cuts)
    assert np.abs(found.singular_values / sigma - 1).max() <= 20 * EPS * kappa
    assert (found.status, found.numerical_rank) == ("finite", d)
    assert found.condition_number == pytest.approx(kappa, rel=20 * EPS * kappa)
    assert found.condition_number_low <= kappa * (1 + EPS)
    assert kappa <= found.condition_number_high * (1 + EPS)


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize("kappa", [1e2, 1e4, 1e6, 1e10])
def test_float32_rows(kappa: float, cuts: list[int]) -> None:
    """float32 cannot hold κ = 1e10 where columns are mixed: the stored values are right, and the status says so."""
    rows = known_spectrum(256, np.geomspace(1, 1 / kappa, 16)).astype(np.float32)
    exact = np.linalg.svd(rows.astype(np.float64), compute_uv=False)
    found = streamed(rows, cuts)
    assert np.abs(found.singular_values / exact - 1).max() <= 20 * EPS * exact[0] / exact[-1]
    if kappa < 1e7:
        assert found.status == "finite"
        assert found.condition_number_low <= kappa <= found.condition_number_high
    else:
        assert found.status == "singular-at-precision"
        assert found.condition_number == np.inf
        assert 1e6 < found.condition_number_low < kappa
        assert found.numerical_rank < 16


@pytest.mark.parametrize("cuts", [[], [1, 7, 40]], ids=["whole", "uneven"])
@pytest.mark.parametrize("top", [0, 30], ids=["down", "up"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_graded_scales(seed: int, top: int, cuts: list[int]) -> None:
    """Columns of scales 1e-30 … 1 or 1 … 1e30 in any order: all values to 20 eps, against 90-digit arithmetic."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((60, 8)) * 10.0 ** (top - rng.permutation(np.linspace(0, 30, 8)))
    found = streamed(rows, cuts)
    assert np.abs(found.singular_values / exact_singular_values(rows) - 1).max() < 20 * EPS
    assert found.status == "singular-at-precision"  # the smallest lie under the rounding of the largest
    assert found.condition_number_scaled == pytest.approx(
        np.linalg.cond(rows / np.linalg.norm(rows, axis=0)), rel=1e-12
    )


def exact_singular_values(rows: np.ndarray) -> np.ndarray:
    """Singular values by eigenvalues of the Gram matrix in 90 digits."""
    with mpmath.workdps(90):
        columns = [[mpmath.mpf(float(v)) for v in column] for column in rows.T]
        gram = mpmath.matrix([[mpmath.fdot(a, b) for b in columns] for a in columns])
        return np.array(sorted((float(mpmath.sqrt(e)) for e in mpmath.eigsy(gram, eigvals_only=True)), reverse=True))


@pytest.mark.parametrize("offset", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("kappa", [1e2, 1e4])
def test_centred_under_an_offset(kappa: float, offset: float) -> None:
    """The centred spectrum of integers over 2^20 with exact means, under means that dwarf the spread."""
    rng = np.random.default_rng(0)
    rows = known_spectrum(256, np.geomspace(1, 1 / kappa, 8))
    rows = np.concatenate([rows, -rows]) + 0.0  # means are exactly zero
    shifted = np.round(rows * 2**40) / 2**40
    plain = np.linalg.svd(shifted, compute_uv=False)
    found = streamed(shifted + offset * np.round(rng.standard_normal(8) * 2**10) / 2**10, [3, 100])
    assert found.centred is not None
    held = EPS * offset * np.sqrt(512)  # what adding the offset itself rounds off
    assert np.abs(found.centred.singular_values - plain).max() <= held + 20 * EPS * plain[0]


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS.keys())
def test_dead_constant_and_duplicate_units(cuts: list[int]) -> None:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((256, 10))
    rows[:, 2] = 0.0
    rows[:, 5] = 3.5
    rows[:, 7] = rows[:, 8] = rows[:, 1]
    found = streamed(rows, cuts)
    assert (found.units.n_dead, found.units.n_constant, found.units.n_duplicate) == (1, 2, 2)
    assert found.reasons == ("1 dead unit", "2 duplicate units")
    assert found.status == "singular-exact"
    assert found.condition_number == np.inf
    assert list(found.singular_values[-3:]) == [0.0, 0.0, 0.0]
    assert found.numerical_rank == 7
    live = rows[:, [0, 1, 3, 4, 5, 6, 9]]
    assert found.condition_number_live == pytest.approx(np.linalg.cond(live), rel=1e-12)
    assert found.centred is not None
    assert found.centred.reasons == ("1 dead unit", "1 constant unit", "2 duplicate units")
    varying = live[:, [0, 1, 2, 3, 5, 6]]
    assert found.centred.condition_number_live == pytest.approx(
        np.linalg.cond(varying - varying.mean(axis=0)), rel=1e-12
    )


def test_a_copy_that_differs_in_one_place_is_no_duplicate() -> None:
    rows = np.random.default_rng(0).standard_normal((5000, 4)).astype(np.float32)
    rows[:, 3] = rows[:, 0]
    rows[4321, 3] = np.nextafter(rows[4321, 0], np.float32(9))
    assert streamed(rows, [1000, 3000]).units.n_duplicate == 0
    rows[4321, 3] = rows[4321, 0]
    assert streamed(rows, [1000, 3000]).units.n_duplicate == 1


def test_negative_zero_is_zero() -> None:
    rows = np.random.default_rng(0).standard_normal((40, 3))
    rows[:, 1] = np.where(rows[:, 0] > 0, 0.0, -0.0)
    assert streamed(rows, [10]).units.n_dead == 1


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_fewer_rows_than_units(n: int) -> None:
    rows = np.random.default_rng(n).standard_normal((n, 8))
    found = streamed(rows, [1])
    np.testing.assert_allclose(found.singular_values, np.linalg.svd(rows, compute_uv=False), rtol=1e-13)
    assert found.status == "singular-exact"
    assert found.reasons == (f"n < d: {n} rows, 8 units",)
    assert found.numerical_rank == n
    assert found.condition_number_rank == pytest.approx(np.linalg.cond(rows), rel=1e-12)
    assert found.centred is not None
    assert len(found.centred.singular_values) == n - 1
    if n > 1:
        centred = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)[: n - 1]
        np.testing.assert_allclose(found.centred.singular_values, centred, rtol=1e-12)


def test_nothing_and_zero() -> None:
    nothing = spectrum(StreamingQR(3).result())
    assert (nothing.status, nothing.numerical_rank, nothing.singular_values.shape) == ("empty", 0, (0,))
    assert np.isnan(nothing.condition_number)
    zero = streamed(np.zeros((9, 3)), [4])
    assert (zero.status, zero.condition_number, zero.numerical_rank) == ("zero", np.inf, 0)
    assert zero.units.n_dead == 3


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 90),
    d=st.integers(1, 12),
    cuts=st.lists(st.integers(0, 90), max_size=6).map(sorted),
    order=st.randoms(use_true_random=False),
)
def test_merge_in_any_order(seed: int, n: int, d: int, cuts: list[int], order) -> None:
    """Parts in several accumulators, merged in any order, are the whole."""
    rows = np.random.default_rng(seed).standard_normal((n, d)) * 10.0 ** np.random.default_rng(seed).integers(-5, 5, d)
    parts = []
    for blocks in blocks_of(rows, [min(c, n) for c in cuts]):
        part = StreamingQR(d)
        part.update(blocks)
        parts.append(part)
    order.shuffle(parts)
    total = StreamingQR(d)
    for part in parts:
        total.merge(part)
    merged, whole = total.result(), streamed(rows, [])
    assert total.n_rows == n
    values = singular_values(merged.raw, min(n, d))
    np.testing.assert_allclose(values, whole.singular_values, rtol=1e-9, atol=1e-14 * (whole.frobenius + 1e-300))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-60, 60), d=st.integers(2, 10))
def test_scaling_and_rotation(seed: int, exponent: int, d: int) -> None:
    """σ scales with the matrix exactly (powers of two), and is unchanged when rows or units are rotated."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((64, d))
    plain, scaled = streamed(rows, [20]), streamed(rows * 2.0**exponent, [20])
    np.testing.assert_array_equal(scaled.singular_values, plain.singular_values * 2.0**exponent)
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    np.testing.assert_allclose(streamed(rows @ turn, [9]).singular_values, plain.singular_values, rtol=1e-12)
    mix = np.linalg.qr(rng.standard_normal((64, 64)))[0]
    np.testing.assert_allclose(streamed(mix @ rows, [9]).singular_values, plain.singular_values, rtol=1e-12)


def test_strided_blocks_and_lanes_agree() -> None:
    """An image batch in either memory format, large enough for several lanes, against the copied matrix."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((96, 6, 16, 16)).astype(np.float32)
    matrix = images.transpose(0, 2, 3, 1).reshape(-1, 6)
    exact = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    last = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).reshape(96, 256, 6)
    for blocks in (images.reshape(96, 6, 256), last.transpose(0, 2, 1)):
        accumulated = StreamingQR(6)
        accumulated.update(blocks)
        accumulated.update(blocks[:, :, ::2])
        accumulated.update(blocks[:, :, 1::2])
        np.testing.assert_allclose(singular_values(accumulated.result().raw), exact * np.sqrt(2), rtol=1e-13)


@pytest.mark.parametrize("kappa", [1e1, 1e3, 1e5])
def test_gram_within_its_resolution(kappa: float) -> None:
    found = streamed(known_spectrum(256, np.geomspace(1, 1 / kappa, 16)), [3, 77], GramAccumulator)
    assert found.condition_number == pytest.approx(kappa, rel=100 * EPS * kappa**2)
    assert found.condition_number_low <= kappa <= found.condition_number_high


@pytest.mark.parametrize("kappa", [1e9, 1e12])
def test_gram_certifies_nothing_it_cannot_see(kappa: float) -> None:
    found = streamed(known_spectrum(256, np.geomspace(1, 1 / kappa, 16)), [3, 77], GramAccumulator)
    assert found.status == "singular-at-precision"
    assert found.condition_number_low <= kappa


def test_gram_merges_and_centres() -> None:
    rows = np.random.default_rng(0).standard_normal((300, 5)) + 100
    a, b = GramAccumulator(5), GramAccumulator(5)
    a.update(rows[:120].T[None])
    b.update(rows[120:].T[None])
    a.merge(b)
    factor = a.result()
    np.testing.assert_allclose(singular_values(factor.raw), np.linalg.svd(rows, compute_uv=False), rtol=1e-9)
    centred = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(singular_values(factor.centred), centred, rtol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 40])
@pytest.mark.parametrize("last", [False, True])
def test_wide_rows_are_exact(n: int, last: bool) -> None:
    rows = np.random.default_rng(n).standard_normal((n, 1500)).astype(np.float32) + 2
    wide = WideRows(1500)
    wide.update(rows[: n // 2, :, None])
    wide.update(rows[n // 2 :, :, None], last=last)
    found = spectrum(wide.result(), Subject(dtype="float32", view="samples"))
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(found.singular_values, np.linalg.svd(exact, compute_uv=False), rtol=1e-12)
    assert found.centred is not None
    centred = np.linalg.svd(exact - exact.mean(axis=0), compute_uv=False)[: n - 1]
    np.testing.assert_allclose(found.centred.singular_values, centred, rtol=1e-10)
    assert found.status == "finite"
    assert (found.n_rows, found.n_features, found.sketched) == (n, 1500, False)


def test_wide_rows_know_equal_samples_and_units() -> None:
    rows = np.random.default_rng(0).standard_normal((30, 1200))
    rows[7] = rows[3]
    rows[9] = 0
    rows[:, 5] = 0
    rows[:, 11] = rows[:, 10]
    wide = WideRows(1200)
    wide.update(rows[:10, :, None])
    wide.update(rows[10:, :, None])
    found = spectrum(wide.result(), Subject(view="samples"))
    assert found.reasons == ("2 samples alike or zero",)
    assert (found.status, found.numerical_rank, found.condition_number) == ("singular-exact", 28, np.inf)
    assert (found.units.n_dead, found.units.n_duplicate) == (1, 1)


def test_a_sketch_says_so_and_keeps_its_promise() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((400, 24_000)).astype(np.float32) * np.geomspace(1, 1e-3, 400)[:, None].astype(
        np.float32
    )
    wide = WideRows(24_000)
    for start in range(0, 400, 100):
        wide.update(rows[start : start + 100, :, None])
    found = spectrum(wide.result(), Subject(dtype="float32", view="samples"))
    exact = np.linalg.svd(rows.astype(np.float64), compute_uv=False)
    assert found.sketched
    assert found.sketch_distortion == pytest.approx(0.05 + 1.3 * np.sqrt(400 / 8192))
    assert np.abs(found.singular_values / exact - 1).max() < found.sketch_distortion
    assert found.condition_number_low <= exact[0] / exact[-1] <= found.condition_number_high


@pytest.mark.parametrize(
    "n", [360, pytest.param(700, marks=pytest.mark.slow), pytest.param(1024, marks=pytest.mark.slow)]
)
def test_a_sketch_keeps_its_promise_where_every_row_is_a_unit_of_its_own(n: int) -> None:
    """The worst case: nothing is spread, so that two units in one sum are two rows in one."""
    rows = np.zeros((n, 24_000), dtype=np.float32)
    rows[np.arange(n), np.random.default_rng(n).permutation(24_000)[:n]] = 1
    wide = WideRows(24_000, seed=n)
    wide.update(rows[:, :, None])
    found = spectrum(wide.result(), Subject(dtype="float32", view="samples"))
    assert found.sketched
    assert np.abs(found.singular_values - 1).max() < found.sketch_distortion
    assert found.condition_number_low <= 1 <= found.condition_number_high


def test_wide_rows_merge_as_they_stream() -> None:
    rows = np.random.default_rng(0).standard_normal((60, 1200)).astype(np.float32)
    rows[:, 7] = 0
    rows[:, 9] = 2
    rows[:, 11] = rows[:, 10]
    rows[:30, 13] = rows[:30, 12]  # alike in one part only
    a, b, nothing = WideRows(1200), WideRows(1200), WideRows(1200)
    a.update(rows[:30, :, None])
    b.update(rows[30:, :, None])
    total = WideRows(1200)
    for part in (nothing, a, b):
        total.merge(part)
    found = spectrum(total.result(), Subject(dtype="float32", view="samples"))
    exact = np.linalg.svd(rows.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(found.singular_values, exact, rtol=1e-12)
    assert (found.units.n_dead, found.units.n_constant, found.units.n_duplicate) == (1, 2, 1)
    with pytest.raises(ShapeError, match="cannot merge 1100 columns into 1200"):
        total.merge(WideRows(1100))
    total.update(rows[:1, :, None], last=True)
    with pytest.raises(ShapeError, match="cannot merge an accumulator that was closed with last=True"):
        total.merge(a)


@pytest.mark.parametrize("cut", [100, 900, 1024])
def test_merged_rows_are_the_first_that_one_stream_would_take(cut: int) -> None:
    rows = np.random.default_rng(0).standard_normal((1100, 4200)).astype(np.float32)
    a, b = WideRows(4200), WideRows(4200)
    a.update(rows[:cut, :, None])
    b.update(rows[cut:, :, None])
    with pytest.warns(UserWarning, match=r"takes at most 1,024 rows; the others are left out"):
        a.merge(b)
    np.testing.assert_array_equal(np.concatenate(a.kept_rows()), rows[:1024])


def test_a_sketch_merges_with_rows_that_were_kept() -> None:
    rows = np.random.default_rng(0).standard_normal((400, 24_000)).astype(np.float32)
    sketched, kept = WideRows(24_000), WideRows(24_000)
    sketched.update(rows[:360, :, None])
    kept.update(rows[360:, :, None])
    kept.merge(sketched)
    found = spectrum(kept.result(), Subject(dtype="float32", view="samples"))
    exact = np.linalg.svd(rows.astype(np.float64), compute_uv=False)
    assert found.sketched
    assert (found.n_rows, len(found.singular_values)) == (400, 400)
    assert np.abs(found.singular_values / exact - 1).max() < found.sketch_distortion


def test_rows_turn_to_a_triangle_once_they_are_many() -> None:
    data = np.random.default_rng(0).standard_normal((1300, 1030))
    rows = Rows(1030)
    for start in range(0, 1300, 260):
        rows.update(data[start : start + 260, :, None])
    found = spectrum(rows.result())
    np.testing.assert_allclose(found.singular_values, np.linalg.svd(data, compute_uv=False), rtol=1e-11)
    assert found.status == "finite"


def test_too_many_rows_of_too_many_units_are_left_out_with_a_warning() -> None:
    rows = Rows(5000)
    rows.update(np.ones((1000, 5000, 1), dtype=np.float32))
    with pytest.warns(UserWarning, match=r"a view of 5,000 units takes at most 1,024 rows; the others are left out"):
        rows.update(np.ones((100, 5000, 1), dtype=np.float32))
    assert rows.n_rows == 1024


def test_rows_merge_whatever_they_have_become() -> None:
    data = np.random.default_rng(0).standard_normal((1400, 1030))
    exact = np.linalg.svd(data, compute_uv=False)
    for cut in (200, 700, 1200):
        a, b = Rows(1030), Rows(1030)
        a.update(data[:cut, :, None])
        b.update(data[cut:, :, None])
        a.merge(b)
        np.testing.assert_allclose(singular_values(a.result().raw), exact, rtol=1e-11)


@pytest.mark.parametrize("kind", [StreamingQR, GramAccumulator, Rows])
def test_a_wrong_width_is_refused(kind: type) -> None:
    with pytest.raises(ShapeError, match=r"rows of shape \(1, 4, 7\) do not fit"):
        kind(3).update(np.zeros((1, 4, 7)))
    with pytest.raises(ShapeError, match="cannot merge 4 columns into 3"):
        kind(3).merge(kind(4))
