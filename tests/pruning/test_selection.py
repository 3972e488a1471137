"""Exact selection against NumPy's stable argsort in float64."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from deepprobe.errors import ConfigError, NonFiniteError, ShapeError, UnknownNameError
from deepprobe.pruning import selection
from deepprobe.pruning.masks import Masks
from deepprobe.pruning.selection import lowest_removed

SHAPES = {"conv": (16, 3, 3, 3), "wide": (300, 784), "narrow": (10, 300), "empty": (0, 5)}


def drawn(seed: int, *, density: float = 1.0, dtype: torch.dtype = torch.float32) -> tuple[dict, Masks]:
    g = torch.Generator().manual_seed(seed)
    scores = {
        name: torch.randn(shape, generator=g, dtype=dtype) * (i + 1) for i, (name, shape) in enumerate(SHAPES.items())
    }
    masks = Masks({name: torch.rand(shape, generator=g) < density for name, shape in SHAPES.items()})
    return scores, masks


def together(tensors: dict | Masks) -> np.ndarray:
    return np.concatenate([t.numpy().ravel() for t in tensors.values()])


def oracle(scores: dict, masks: Masks, n: int) -> np.ndarray:
    """What stays, by sorting everything; only where no score at the border occurs twice."""
    values, kept = together({k: s.double() for k, s in scores.items()}), together(masks).copy()
    values = np.where(kept, values, np.inf)
    order = np.argsort(values, kind="stable")
    assert values[order[n - 1]] < values[order[n]], "the oracle cannot say which of equal scores goes"
    kept[order[:n]] = False
    return kept


@pytest.mark.parametrize("share", [1e-5, 0.2, 0.5, 0.97])
@pytest.mark.parametrize("density", [1.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_selection_equals_a_full_sort(share: float, density: float, dtype: torch.dtype) -> None:
    scores, masks = drawn(3, density=density, dtype=dtype)
    n = max(1, int(masks.n_kept * share))
    kept = oracle({k: s for k, s in scores.items()}, masks, n)
    assert np.array_equal(together(lowest_removed(scores, masks, n)), kept)


def test_each_tensor_alone_equals_a_full_sort_of_each() -> None:
    scores, masks = drawn(4, density=0.9)
    n = {"wide": 100_000, "narrow": 17, "empty": 0}
    found = lowest_removed(scores, masks, n)
    for name in ("wide", "narrow"):
        expected = oracle({name: scores[name]}, Masks({name: masks[name]}), n[name])
        assert np.array_equal(found[name].numpy().ravel(), expected)
    assert torch.equal(found["conv"], masks["conv"])


def test_nothing_and_everything() -> None:
    scores, masks = drawn(5, density=0.5)
    assert lowest_removed(scores, masks, 0) == masks
    assert lowest_removed(scores, masks, masks.n_kept).n_kept == 0


def test_scores_of_removed_entries_are_ignored_even_nan() -> None:
    scores, masks = drawn(6, density=0.5)
    spoilt = {name: score.masked_fill(~masks[name], float("nan")) for name, score in scores.items()}
    assert lowest_removed(spoilt, masks, 50_000) == lowest_removed(scores, masks, 50_000)


def test_infinite_scores_are_the_ends_of_the_order() -> None:
    scores, masks = drawn(7)
    scores["wide"][:100] = float("inf")
    scores["wide"][100:110] = float("-inf")
    found = lowest_removed(scores, masks, masks.n_kept - 100 * 784)
    assert bool(found["wide"][:100].all())
    assert found.n_kept == 100 * 784
    assert not bool(lowest_removed(scores, masks, 10 * 784)["wide"][100:110].any())


def test_half_precision_and_strides_do_not_matter() -> None:
    scores, masks = drawn(8)
    half = {name: score.bfloat16() for name, score in scores.items()}
    whole = {name: score.float() for name, score in half.items()}
    whole["conv"] = whole["conv"].to(memory_format=torch.channels_last)
    whole["wide"] = whole["wide"].T.contiguous().T
    mixed = half | {"conv": half["conv"].double()}
    found = lowest_removed(half, masks, 77_777)
    assert found.n_kept == masks.n_kept - 77_777
    assert lowest_removed(whole, masks, 77_777) == found
    assert lowest_removed(mixed, masks, 77_777) == found


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.001])
def test_equal_scores_cost_each_tensor_and_each_row_and_column_its_share(share: float) -> None:
    scores = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    masks = Masks({name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()})
    n = round(masks.n_kept * share)
    found = lowest_removed(scores, masks, n)
    assert found.n_kept == masks.n_kept - n
    for name, mask in masks.items():
        assert abs((mask.numel() - found.counts[name]) - mask.numel() * share) <= 1
    wide = (~found["wide"]).double()
    for axis, length in ((0, 300), (1, 784)):  # a random draw would have this spread over rows, or columns
        allowed = 6 * (length * share * (1 - share)) ** 0.5 + 1
        assert float((wide.sum(axis) - length * share).abs().max()) <= allowed
    assert float((wide.sum(1) - 784 * share).abs().max()) <= 2 + 784 * min(share, 1 - share) * 0.01


def test_equal_scores_at_the_border_only() -> None:
    scores, masks = drawn(9)
    scores = {name: (score * 4).round().abs() for name, score in scores.items()}  # a few dozen values
    for n in (1, 1000, 100_000, 200_000, masks.n_kept - 1):
        found = lowest_removed(scores, masks, n)
        values, kept = together(scores), together(found)
        border = np.sort(values)[n - 1]
        assert found.n_kept == masks.n_kept - n
        assert kept[values > border].all()
        assert not kept[values < border].any()
        assert found == lowest_removed(scores, masks, n)


@pytest.mark.parametrize(("m", "r"), [(10, 3), (10, 5), (10, 7), (10, 0), (10, 10), (1000, 333), (7, 1)])
def test_places_are_spread_evenly(m: int, r: int) -> None:
    chosen = selection._spread(m, r)
    assert chosen.sum() == r
    ends = [i * m // 5 for i in range(6)]
    for start, stop in pairwise(ends):
        assert abs(chosen[start:stop].sum() - (stop - start) * r / m) <= 2


def test_missed_pivots_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, masks = drawn(10)
    expected = lowest_removed(scores, masks, 90_000)
    tries: list[float] = []

    def missing(layers: object, share: float, n_kept: int, margin: float) -> tuple[float, float]:
        tries.append(margin)
        return {4.0: (-3.0, -2.9), 32.0: (5.0, 6.0)}.get(margin, (float("-inf"), float("inf")))

    monkeypatch.setattr(selection, "_pivots", missing)
    assert lowest_removed(scores, masks, 90_000) == expected
    assert tries == [4.0, 32.0, float("inf")]


def test_the_sample_is_needed_and_found_where_little_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, masks = drawn(11, density=0.02)
    expected = lowest_removed(scores, masks, 1000)  # so few that all are gathered
    monkeypatch.setattr(selection, "N_SAMPLE", 256)
    gathered: list[int] = []
    between = selection._between

    def counted(*args: object) -> object:
        found = between(*args)  # type: ignore[arg-type]
        gathered.append(len(found[1]))
        return found

    monkeypatch.setattr(selection, "_between", counted)
    assert lowest_removed(scores, masks, 1000) == expected
    assert max(gathered) < masks.n_kept / 2


def test_more_than_2_to_the_24_entries_are_counted_right() -> None:
    n = 2**24 + 3
    masks = Masks({"a": torch.ones(n, dtype=torch.bool), "b": torch.ones(5, dtype=torch.bool)})
    scores = {"a": torch.zeros(n), "b": torch.ones(5)}
    found = lowest_removed(scores, masks, 2**24 + 1)
    assert found.counts == {"a": 2, "b": 5}


@pytest.mark.parametrize(
    ("n", "error", "text"),
    [
        (5, ConfigError, "5 weights cannot be removed from the network, of which 4 are kept"),
        (-1, ConfigError, "-1 weights cannot be removed"),
        (0.2, ConfigError, "n=0.2: the number of weights to remove is a whole number"),
        ({"a": 5}, ConfigError, "5 weights cannot be removed from a, of which 4 are kept"),
        ({"aa": 1}, UnknownNameError, "'aa' has no mask: did you mean 'a'?"),
    ],
)
def test_numbers_that_cannot_be(n: object, error: type[Exception], text: str) -> None:
    masks = Masks({"a": torch.tensor([True] * 4 + [False])})
    with pytest.raises(error) as caught:
        lowest_removed({"a": torch.zeros(5)}, masks, n)  # type: ignore[arg-type]
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (None, "not missing"),
        (torch.zeros(4), "not torch.float32 of shape (4,)"),
        (torch.zeros(5, dtype=torch.int64), "not torch.int64 of shape (5,)"),
    ],
)
def test_scores_that_do_not_fit(score: torch.Tensor | None, text: str) -> None:
    masks = Masks({"a": torch.ones(5, dtype=torch.bool)})
    with pytest.raises(ShapeError) as caught:
        lowest_removed({} if score is None else {"a": score}, masks, 1)
    assert "the scores of 'a' must be floating-point of shape (5,)" in str(caught.value)
    assert text in str(caught.value)


def test_nan_scores_are_named() -> None:
    masks = Masks({"a": torch.tensor([True, True, False])})
    with pytest.raises(NonFiniteError, match="1 scores of 'a' are NaN: their order is not defined"):
        lowest_removed({"a": torch.tensor([float("nan"), 1.0, float("nan")])}, masks, 1)
