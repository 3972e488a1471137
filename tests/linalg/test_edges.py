"""Rows that invite false certainty: outliers first, columns nearly equal, units dead before others, zero samples."""

from __future__ import annotations

import numpy as np
import pytest

from deepprobe.errors import ShapeError, SpectrumError
from deepprobe.linalg.gram import GramAccumulator
from deepprobe.linalg.streaming_qr import StreamingQR
from deepprobe.linalg.wide_rows import WideRows
from deepprobe.measures.conditioning import Subject, spectrum


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_fewer_rows_than_units_of_which_the_first_are_constant(value: float, rng: np.random.Generator) -> None:
    rows = np.full((3, 10), value)
    rows[:, 6:] = rng.standard_normal((3, 4))
    accumulated = StreamingQR(10)
    accumulated.update(rows[:, :, None])
    found = spectrum(accumulated.result())
    assert found.singular_values == pytest.approx(np.linalg.svd(rows, compute_uv=False), rel=1e-13)
    assert found.centred is not None
    exact = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)[:2]
    assert found.centred.singular_values == pytest.approx(exact, rel=1e-13)


def test_columns_that_differ_by_less_than_the_first_row_rounds_are_no_duplicates() -> None:
    accumulated = StreamingQR(2)
    accumulated.update(np.array([[1e20, 1e20], [1.0, 2.0], [3.0, 1.0]])[:, :, None])
    found = spectrum(accumulated.result())
    assert (found.status, found.units.n_duplicate) == ("singular-at-precision", 0)


@pytest.mark.parametrize("accumulator", [StreamingQR, GramAccumulator])
def test_an_outlier_as_first_row_certifies_no_noise(
    accumulator: type[StreamingQR | GramAccumulator], rng: np.random.Generator
) -> None:
    """The third column is the sum of the others: exactly singular, and lost in what the first row rounds away."""
    pair = np.round(rng.standard_normal((200_000, 2)) * 2**20) / 2**20
    pair[0] = np.round(np.array([1e5 * np.pi, 1e5 * np.e]) * 2**20) / 2**20
    accumulated = accumulator(3)
    accumulated.update(np.column_stack([pair, pair.sum(axis=1)])[:, :, None])
    found = spectrum(accumulated.result())
    assert found.centred is not None
    assert (found.status, found.centred.status) == ("singular-at-precision", "singular-at-precision")
    assert found.numerical_rank == 2


def test_a_zero_sample_is_no_defect_once_centred(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((3, 2000))
    rows[1] = 0
    accumulated = WideRows(2000)
    accumulated.update(rows[:, :, None])
    found = spectrum(accumulated.result(), Subject(view="samples"))
    assert found.centred is not None
    assert (found.status, found.reasons) == ("singular-exact", ("1 samples alike or zero",))
    exact = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)[:2]
    assert found.centred.status == "finite"
    assert found.centred.singular_values == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("kind", ["signs", "digits"])
def test_hashes_tell_columns_of_few_digits_apart(kind: str, rng: np.random.Generator) -> None:
    rows = np.sign(rng.standard_normal((60, 3000))) if kind == "signs" else rng.integers(-3, 4, (30, 3000)) * 1.0
    rows[:, 7] = rows[:, 3]
    accumulated = WideRows(3000)
    accumulated.update(rows[:, :, None])
    assert np.flatnonzero(accumulated.result().duplicate).tolist() == [7]


def test_rows_after_the_last_are_refused(rng: np.random.Generator) -> None:
    accumulated = WideRows(2000)
    accumulated.update(rng.standard_normal((3, 2000, 1)), last=True)
    with pytest.raises(ShapeError) as caught:
        accumulated.update(rng.standard_normal((3, 2000, 1)))
    assert str(caught.value) == "rows of 2000 units after last=True: the factor is closed"


@pytest.mark.parametrize("scale", [1e300, 1e-200, 1e-310])
def test_scaled_columns_at_the_ends_of_float64(scale: float, rng: np.random.Generator) -> None:
    rows = rng.standard_normal((50, 4))
    accumulated = StreamingQR(4)
    accumulated.update((rows * scale)[:, :, None])
    exact = np.linalg.cond(rows / np.linalg.norm(rows, axis=0))
    assert spectrum(accumulated.result()).condition_number_scaled == pytest.approx(exact, rel=1e-9)


def test_centred_scaling_does_not_certify_the_rounding_of_large_means(rng: np.random.Generator) -> None:
    """Two columns that differ in what float32 rounds away beside a mean of 1e6."""
    base = 1e6 + rng.standard_normal(5000)
    rows = np.column_stack([base, base + 1e-2 * rng.standard_normal(5000)]).astype(np.float32)
    accumulated = StreamingQR(2)
    accumulated.update(rows[:, :, None])
    found = spectrum(accumulated.result(), Subject(dtype="float32")).centred
    assert found is not None
    assert found.condition_number_scaled == np.inf


def test_subnormal_halves_have_no_relative_precision(rng: np.random.Generator) -> None:
    """The third column is the sum of the others until float16 rounds all three to a few steps of 6e-8."""
    pair = rng.standard_normal((1000, 2)) * 1e-6
    rows = np.column_stack([pair, pair.sum(axis=1)]).astype(np.float16).astype(np.float32)
    accumulated = StreamingQR(3)
    accumulated.update(rows[:, :, None])
    assert spectrum(accumulated.result(), Subject(dtype="float16")).status == "singular-at-precision"


def test_values_that_overflow_on_the_way() -> None:
    rows = np.array([[1.7e308, 2.0], [-1.7e308, 1.0], [3.0, 4.0]])
    exact, squared = StreamingQR(2), GramAccumulator(2)
    with np.errstate(over="ignore", invalid="ignore"):
        exact.update(rows[:, :, None])
        with pytest.raises(SpectrumError) as caught:
            spectrum(exact.result())
    assert str(caught.value) == "values overflow float64 on the way to a spectrum: scale the matrix down"
    squared.update(rows[:, :, None] * 1e-100)
    with pytest.raises(SpectrumError) as caught:
        squared.result()
    assert str(caught.value).startswith("squares of these values overflow: method='gram' cannot hold them")


def test_fewer_rows_than_live_units_have_no_live_condition_number(rng: np.random.Generator) -> None:
    """Taking dead units out cannot make six columns of four rows independent; it can two."""
    rows = np.zeros((4, 8))
    rows[:, :6] = rng.standard_normal((4, 6))
    accumulated = StreamingQR(8)
    accumulated.update(rows[:, :, None])
    assert np.isnan(spectrum(accumulated.result()).condition_number_live)
    over_rows = spectrum(accumulated.result(), Subject(view="samples"))
    assert over_rows.condition_number_live == pytest.approx(np.linalg.cond(rows), rel=1e-12)
    rows[:, 2:] = 0
    accumulated = StreamingQR(8)
    accumulated.update(rows[:, :, None])
    live = spectrum(accumulated.result()).condition_number_live
    assert live == pytest.approx(np.linalg.cond(rows[:, :2]), rel=1e-12)
