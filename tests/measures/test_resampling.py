"""Standard errors and the shuffled null, against statistics recomputed in full."""

from __future__ import annotations

import numpy as np
import pytest

from deepprobe.linalg.groups import Groups
from deepprobe.linalg.rows import Rows
from deepprobe.measures.conditioning import Subject, spectrum
from deepprobe.measures.resampling import jackknife_standard_error, with_shuffled, with_standard_error
from deepprobe.records.spectrum import Spectrum

RNG = np.random.default_rng(0)


def with_error(blocks: np.ndarray, g: int, dtype: str = "float64") -> Spectrum:
    groups = Groups(g, lambda: Rows(blocks.shape[1]))
    groups.update(blocks)
    factor = groups.result()
    return with_standard_error(spectrum(factor, Subject(dtype=dtype)), factor, groups.left_out())


def both_errors(found: Spectrum) -> tuple[float, float]:
    assert found.centred is not None
    return found.condition_number_se, found.centred.condition_number_se


def test_of_a_mean_it_is_the_textbook_standard_error() -> None:
    sample = RNG.standard_normal(40)
    left_out = [np.delete(sample, i).mean() for i in range(40)]
    assert jackknife_standard_error(left_out) == pytest.approx(sample.std(ddof=1) / np.sqrt(40), rel=1e-10)
    for unknown in ([], [1.0], [1.0, np.inf, 2.0], [1.0, np.nan]):
        assert np.isnan(jackknife_standard_error(unknown))


def test_it_is_as_large_as_the_spread_over_independent_draws() -> None:
    """30 draws of 800 Gaussian samples, four correlated positions each; two of the six units nearly alike."""
    logs, errors = [], []
    mixing = RNG.standard_normal((6, 6)) * np.geomspace(1, 0.05, 6)
    for _ in range(30):
        common = RNG.standard_normal((800, 6, 1))
        found = with_error(np.einsum("ij,njp->nip", mixing, common + RNG.standard_normal((800, 6, 4))), 16)
        assert found.centred is not None
        logs.append(np.log10([found.condition_number, found.centred.condition_number]))
        errors.append(both_errors(found))
    ratio = np.sqrt(np.mean(np.square(errors), axis=0)) / np.std(logs, axis=0, ddof=1)
    assert (ratio > 0.5).all(), ratio
    assert (ratio < 2).all(), ratio


def test_units_that_are_not_live_stay_out() -> None:
    blocks = RNG.standard_normal((64, 5, 3))
    alone = both_errors(with_error(blocks[:, [0, 2, 4]], 8))
    blocks[:, 1] = 0.0
    blocks[:, 3] = blocks[:, 0]
    found = with_error(blocks, 8)
    assert found.status == "singular-exact"
    assert both_errors(found) == pytest.approx(alone, rel=1e-9)


def test_a_constant_unit_stays_out_of_the_centred_one_only() -> None:
    blocks = RNG.standard_normal((64, 3, 3))
    blocks[:, 1] = 2.0
    raw, centred = both_errors(with_error(blocks, 8))
    assert raw > 0
    assert centred == pytest.approx(both_errors(with_error(blocks[:, [0, 2]], 8))[1], rel=1e-9)


def test_nan_where_there_is_nothing_to_say() -> None:
    rare = RNG.standard_normal((64, 3, 2))
    rare[:, 2] = 0.0
    rare[5, 2] = 1.0  # without its group κ is infinite
    few = RNG.standard_normal((8, 6, 1))  # two groups: 4 rows of 6 units are left
    alike = RNG.standard_normal((64, 3, 2)).astype(np.float32)
    alike[:, 2] = alike[:, 1] * np.float32(1 / 3)
    for found in (with_error(rare, 8), with_error(few, 2), with_error(alike, 8, "float32"), with_error(rare[:1], 4)):
        assert all(np.isnan(both_errors(found)))
    assert not np.isnan(both_errors(with_error(np.delete(rare, 2, axis=1), 8))).any()


def test_shuffled_is_over_the_live_units() -> None:
    rows, other = RNG.standard_normal((2, 200, 5))
    rows[:, 1] = 0.0
    rows[:, 4] = 3.0
    factors = []
    for part in (rows, other):
        accumulator = Rows(5)
        accumulator.update(part[:, :, None])
        factors.append(accumulator.result())
    found = with_shuffled(spectrum(factors[0]), *factors)
    assert found.condition_number_shuffled == pytest.approx(np.linalg.cond(other[:, [0, 2, 3, 4]]), rel=1e-10)
    assert found.centred is not None
    centred = other[:, [0, 2, 3]] - other[:, [0, 2, 3]].mean(axis=0)
    assert found.centred.condition_number_shuffled == pytest.approx(np.linalg.cond(centred), rel=1e-10)


def test_shuffled_of_too_few_rows_is_nan() -> None:
    many, few = Rows(4), Rows(4)
    many.update(RNG.standard_normal((30, 4, 1)))
    few.update(RNG.standard_normal((4, 4, 1)))
    found = with_shuffled(spectrum(many.result()), many.result(), few.result())
    assert found.condition_number_shuffled > 1
    assert found.centred is not None
    assert np.isnan(found.centred.condition_number_shuffled)
