"""From factor to spectrum: bounds, reasons, live units."""

from __future__ import annotations

import numpy as np
import pytest

from deepprobe.linalg.streaming_qr import StreamingQR
from deepprobe.measures.conditioning import Subject, spectrum

RNG = np.random.default_rng(0)


def factor_of(rows: np.ndarray):
    accumulated = StreamingQR(rows.shape[1])
    accumulated.update(rows.T[None])
    return accumulated.result()


def test_rank_bound_of_an_expanding_layer() -> None:
    rows = (RNG.standard_normal((500, 3)) @ RNG.standard_normal((3, 8))).astype(np.float32)
    found = spectrum(factor_of(rows), Subject(dtype="float32", rank_limit=3))
    assert (found.rank_bound, found.numerical_rank, found.status) == (3, 3, "singular-exact")
    assert found.reasons == ("rank bound: 3 of 8 by the layer's shape",)
    assert found.condition_number == np.inf
    assert found.condition_number_bound == pytest.approx(found.condition_number_rank)
    exact = np.linalg.svd(rows.astype(np.float64), compute_uv=False)
    assert found.condition_number_bound == pytest.approx(exact[0] / exact[2], rel=1e-10)


def test_a_bias_adds_one_to_the_raw_bound_only() -> None:
    rows = RNG.standard_normal((500, 3)) @ RNG.standard_normal((3, 8)) + RNG.standard_normal(8)
    found = spectrum(factor_of(rows), Subject(rank_limit=3, offset=True))
    assert found.centred is not None
    assert (found.rank_bound, found.centred.rank_bound) == (4, 3)
    assert (found.numerical_rank, found.centred.numerical_rank) == (4, 3)


@pytest.mark.parametrize("view", ["samples", "hosvd1"])
def test_views_of_rows_take_the_first_n_values(view: str) -> None:
    rows = RNG.standard_normal((5, 40))
    found = spectrum(factor_of(rows), Subject(view=view))
    assert found.status == "finite"
    assert found.condition_number == pytest.approx(np.linalg.cond(rows), rel=1e-12)
    assert found.over_values


def test_exact_ranks_settle_what_precision_leaves_open() -> None:
    rows = RNG.standard_normal((300, 4)).astype(np.float32)
    rows[:, 3] = rows[:, 0] + rows[:, 1] * 2.0**-30
    undecided = spectrum(factor_of(rows), Subject(dtype="float32"))
    assert undecided.status in {"singular-exact", "singular-at-precision"}
    rows[:, 3] = (rows[:, 0].astype(np.float64) * 0.3).astype(np.float32)
    factor = factor_of(rows)
    assert spectrum(factor, Subject(dtype="float32")).status == "singular-at-precision"
    proven_full = spectrum(factor, Subject(dtype="float32", exact_ranks=(4, 4)))
    assert (proven_full.status, proven_full.certificate) == ("singular-at-precision", 4)
    deficient = spectrum(factor, Subject(dtype="float32", exact_ranks=(3, 3)))
    assert deficient.status == "singular-exact"
    assert deficient.reasons == ("exact rank 3 of 4, proven modulo two primes",)


def test_null_is_of_the_same_shape() -> None:
    found = spectrum(factor_of(RNG.standard_normal((64, 16))))
    assert found.condition_number == pytest.approx(found.condition_number_null, rel=0.5)
    assert found.centred is not None
    assert found.centred.condition_number_null > 1
