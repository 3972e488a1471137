"""What is said of a spectrum: the one place where *infinite* is decided."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepprobe.records.spectrum import STATUSES, Spectrum, Units, ratio

U32 = 2.0**-24


def test_statuses_in_their_order() -> None:
    """Each rule wins over all that come after it."""
    healthy = Spectrum.of([4.0, 2.0, 1.0], n_rows=9, dtype="float32")
    cases = [
        healthy,
        replace(healthy, floor=0.05),
        replace(healthy, floor=0.05, singular_values=np.array([4.0, 2.0, 1e-8])),
        replace(healthy, floor=0.05, singular_values=np.array([4.0, 2.0, 1e-8]), reasons=("1 dead unit",)),
        replace(healthy, floor=0.05, singular_values=np.zeros(3), reasons=("3 dead units",)),
        replace(healthy, singular_values=np.zeros(0), reasons=("n < d",)),
        replace(healthy, singular_values=np.zeros(0), units=Units(n_nonfinite=3)),
    ]
    assert [c.status for c in reversed(cases)] == list(STATUSES)


def test_interval_is_weyls() -> None:
    s = Spectrum.of([10.0, 1e-4], n_rows=9, dtype="float32")
    delta = (U32 + 8 * 2.0**-53) * np.hypot(10, 1e-4)
    assert s.delta == pytest.approx(delta, rel=1e-15)
    assert s.condition_number_low == pytest.approx((10 - delta) / (1e-4 + delta), rel=1e-14)
    assert s.condition_number_high == pytest.approx((10 + delta) / (1e-4 - delta), rel=1e-14)
    assert s.condition_number == pytest.approx(1e5)


def test_the_measured_floor_takes_the_place_of_delta() -> None:
    s = replace(Spectrum.of([10.0, 1e-3], n_rows=9, dtype="float32"), floor=0.01)
    assert (s.status, s.condition_number, s.numerical_rank) == ("singular-at-precision", np.inf, 1)
    assert s.condition_number_low == pytest.approx((10 - 0.01) / (1e-3 + 0.01))
    assert s.condition_number_high == np.inf


def test_singular_at_precision_says_only_a_bound() -> None:
    s = Spectrum.of([1.0, 1e-9], n_rows=9, dtype="float32")
    assert s.condition_number == np.inf
    assert s.condition_number_low == pytest.approx(1 / (1e-9 + s.delta), rel=1e-6)
    assert s.condition_number_rank == 1.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_largest_condition_number_a_dtype_can_certify(dtype: str) -> None:
    s = Spectrum.of([1.0, 1e-16], n_rows=9, dtype=dtype)
    assert s.status == "singular-at-precision"
    assert replace(s, singular_values=np.array([1.0, 2 * s.delta])).status == "finite"


def test_ranks_against_loops() -> None:
    sigma = np.array([5.0, 3.0, 2.0, 1.0])
    s = Spectrum.of(sigma, n_rows=9)
    p = sigma / sigma.sum()
    assert s.effective_rank == pytest.approx(np.prod(p**-p))
    assert s.stable_rank == pytest.approx(sum(v * v for v in sigma) / 25)
    assert s.participation_ratio == pytest.approx(sum(v**2 for v in sigma) ** 2 / sum(v**4 for v in sigma))


def test_extreme_values_neither_overflow_nor_vanish() -> None:
    for scale in (1e300, 1e-300):
        s = Spectrum.of(np.array([2.0, 1.0]) * scale, n_rows=9)
        assert s.stable_rank == pytest.approx(1.25)
        assert s.participation_ratio == pytest.approx(25 / 17)
        assert s.effective_rank == pytest.approx(Spectrum.of([2.0, 1.0], n_rows=9).effective_rank)


def test_zero_and_empty() -> None:
    zero, empty = Spectrum.of([0.0, 0.0], n_rows=5), Spectrum.of([])
    assert (zero.status, zero.condition_number, zero.condition_number_low, zero.numerical_rank) == (
        "zero",
        np.inf,
        np.inf,
        0,
    )
    assert empty.status == "empty"
    for s in (zero, empty):
        for name in ("effective_rank", "stable_rank", "participation_ratio", "condition_number_rank"):
            assert np.isnan(getattr(s, name)), name
    for name in ("condition_number", "condition_number_low", "condition_number_high", "sigma_max", "sigma_min"):
        assert np.isnan(getattr(empty, name)), name


def test_nonfinite_and_unresolved_give_no_number() -> None:
    healthy = Spectrum.of([4.0, 2.0, 1.0], n_rows=9, dtype="float32")
    for s in (replace(healthy, units=Units(n_nonfinite=1)), replace(healthy, floor=0.05)):
        assert np.isnan(s.condition_number)


def test_ratio() -> None:
    assert np.isnan(ratio(np.zeros(0)))
    assert ratio(np.array([4.0, 2.0])) == 2.0
    assert ratio(np.array([4.0, 2.0]), 2.0) == np.inf
    assert ratio(np.array([1e308, 1e-308])) == np.inf


def test_row_has_the_columns_that_people_rely_on() -> None:
    row = replace(Spectrum.of([2.0, 1.0], n_rows=4), centred=Spectrum.of([1.0], n_rows=4)).row()
    promised = [
        *("depth", "layer", "type", "tap", "view", "n_rows", "n_features", "n_dead", "n_duplicate", "dtype"),
        *(measures := ["rank_bound", "status", "condition_number", "condition_number_low", "condition_number_high"]),
        *(more := ["condition_number_live", "condition_number_rank", "condition_number_null", "numerical_rank"]),
        *(rest := ["effective_rank", "stable_rank", "participation_ratio", "sigma_max", "sigma_min"]),
    ]
    assert set(promised) <= set(row)
    assert {f"centred_{c}" for c in (*measures, *more, *rest)} <= set(row)
