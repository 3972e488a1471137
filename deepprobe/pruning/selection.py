"""Selection: exactly so many of the lowest scores of many tensors, ties spread evenly.

The n-th lowest score lies between two pivots, quantiles of a random sample; what lies below them is counted, only what
lies between them is gathered and partitioned (Floyd & Rivest 1975, "Expected time bounds for selection"). Where the
pivots miss, wider ones are drawn, and at last all scores are gathered: the result never depends on the sample.

Thresholds cannot do this: scores equal to one are removed all or not at all.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from deepprobe.errors import ConfigError, NonFiniteError, ShapeError, UnknownNameError, nearest
from deepprobe.pruning.masks import Masks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

N_SAMPLE = 2**16
"""Kept scores from which pivots are taken; so few or fewer are all gathered."""
MOST_DRAWS = 2**20
"""Positions drawn at most to find them where little is kept."""
MARGINS = (4.0, 32.0, float("inf"))
"""Distance of the pivots from the quantile, in standard deviations of the sample's rank, in the order of the tries."""

Array: TypeAlias = Any  # an ndarray or a tensor: both compare, combine and index alike


def lowest_removed(scores: Mapping[str, Tensor], masks: Masks, n: int | Mapping[str, int]) -> Masks:
    """Masks without the kept entries of the lowest scores, exactly as many as asked for.

    Of equal scores at the border each tensor loses its share, at places spread evenly over it; which they are is always
    the same. Scores of entries that are already removed are ignored.

    Args:
        scores: A floating-point tensor for each mask and of its shape; higher is more worth keeping. May be infinite.
        masks: What is kept now.
        n: How many entries go, over all tensors together; or, by parameter, of each (0 where it is left out).

    Returns:
        New masks, on the devices of the old ones.

    Raises:
        ConfigError: If more are asked for than are kept, or less than none.
        NonFiniteError: If the score of a kept entry is NaN.
        ShapeError: If a score is missing, not of its mask's shape, or not floating-point.
        UnknownNameError: If ``n`` names a parameter without a mask.

    Example:
        >>> masks = Masks({"weight": torch.tensor([True, True, True, False])})
        >>> lowest_removed({"weight": torch.tensor([0.5, 0.1, 0.9, 0.0])}, masks, 1)["weight"].tolist()
        [True, False, True, False]
    """
    layers = _layers(scores, masks)
    counts = masks.counts
    if not isinstance(n, Mapping):
        found = _without_lowest(layers, _checked(n, sum(counts.values()), "the network"), counts)
        return Masks({name: _tensor(kept) for name, kept in zip(masks, found, strict=True)})
    for name in n:
        if name not in masks:
            raise UnknownNameError(f"{name!r} has no mask: {nearest(name, masks)}")
    wanted = {name: _checked(n.get(name, 0), counts[name], name) for name in masks}
    single = (_without_lowest([layer], wanted[layer.name], counts)[0] for layer in layers)
    return Masks({name: _tensor(kept) for name, kept in zip(masks, single, strict=True)})


@dataclass(frozen=True, eq=False)
class _Layer:
    """Scores of one tensor and what of it is kept: NumPy's view on a CPU, where it counts faster, else tensors."""

    name: str
    scores: Array
    kept: Array


def _layers(scores: Mapping[str, Tensor], masks: Masks) -> list[_Layer]:
    """Scores beside masks, all of one dtype; an error if they do not fit or a kept one is NaN."""
    for name, mask in masks.items():
        score = scores.get(name)
        if not isinstance(score, Tensor) or score.shape != mask.shape or not score.is_floating_point():
            what = f"{score.dtype} of shape {tuple(score.shape)}" if isinstance(score, Tensor) else "missing"
            raise ShapeError(f"the scores of {name!r} must be floating-point of shape {tuple(mask.shape)}, not {what}")
    wide = any(scores[name].dtype == torch.float64 for name in masks)
    dtype = torch.float64 if wide else torch.float32  # both hold every half-precision number exactly
    layers = []
    for name, mask in masks.items():
        score = scores[name].detach().to(device=mask.device, dtype=dtype)
        layer = _Layer(name, *((score.numpy(), mask.numpy()) if mask.device.type == "cpu" else (score, mask)))
        if mask.numel() and bool(np.isnan(float(layer.scores.max()))):  # a maximum passes NaN on
            n_bad = _count((layer.scores != layer.scores) & layer.kept)
            if n_bad:
                raise NonFiniteError(f"{n_bad} scores of {name!r} are NaN: their order is not defined")
        layers.append(layer)
    return layers


def _checked(n: int, n_kept: int, what: str) -> int:
    """How many go, as an int; ConfigError if there are not so many."""
    try:
        n = operator.index(n)
    except TypeError:
        raise ConfigError(f"n={n!r}: the number of weights to remove is a whole number") from None
    if not 0 <= n <= n_kept:
        raise ConfigError(f"{n} weights cannot be removed from {what}, of which {n_kept} are kept")
    return n


def _without_lowest(layers: Sequence[_Layer], n: int, counts: Mapping[str, int]) -> list[Array]:
    """What of each layer stays when the n lowest scores of all go."""
    if n == 0:
        return [layer.kept for layer in layers]
    n_kept = sum(counts[layer.name] for layer in layers)
    threshold, n_going, n_tied = _border(layers, n, n_kept)
    above = [_and(layer.scores > threshold, layer.kept) for layer in layers]
    if n_going < n_tied:
        tied = [_and(layer.scores == threshold, layer.kept) for layer in layers]
        n_each = [_count(ties) for ties in tied]
        for stay, ties, m, r in zip(above, tied, n_each, _shares(n_each, n_going), strict=True):
            if m > r:
                stay[ties] = _like(~_spread(m, r), stay)
    return above


def _border(layers: Sequence[_Layer], n: int, n_kept: int) -> tuple[float, int, int]:
    """The n-th lowest of the kept scores, how many equal to it are among the n lowest, and how many there are."""
    for margin in MARGINS:
        low, high = _pivots(layers, n / n_kept, n_kept, margin)
        n_below, between = _between(layers, low, high)
        k = n - n_below
        if 0 < k <= len(between):
            break
    between.partition(k - 1)
    threshold = between[k - 1]
    n_less = int(np.count_nonzero(between < threshold))
    return float(threshold), k - n_less, int(np.count_nonzero(between == threshold))


def _pivots(layers: Sequence[_Layer], share: float, n_kept: int, margin: float) -> tuple[float, float]:
    """Two scores that the quantile ``share`` of the kept ones most likely lies between."""
    everything = float("-inf"), float("inf")
    if n_kept <= N_SAMPLE or margin == float("inf"):
        return everything
    sample = _sample(layers, n_kept)
    spread = margin * ((len(sample) * share * (1 - share)) ** 0.5 + 1)
    first, last = int(share * len(sample) - spread), int(share * len(sample) + spread) + 1
    low = float(sample[first]) if first > 0 else everything[0]
    high = float(sample[last]) if last < len(sample) else everything[1]
    return low, high


def _sample(layers: Sequence[_Layer], n_kept: int) -> NDArray[np.floating[Any]]:
    """Some of the kept scores, sorted; the places are random, since a stride might meet only corners of kernels."""
    sizes = [int(np.prod(layer.kept.shape)) for layer in layers]
    draws = min(MOST_DRAWS, N_SAMPLE * sum(sizes) // n_kept) / sum(sizes)
    random = np.random.default_rng(0)
    parts = []
    for layer, size in zip(layers, sizes, strict=True):
        places = _like(random.integers(size, size=round(draws * size)) if size else np.zeros(0, int), layer.kept)
        drawn = layer.scores.reshape(-1)[places][layer.kept.reshape(-1)[places]]
        parts.append(_array(drawn))
    return np.sort(np.concatenate(parts))


def _between(layers: Sequence[_Layer], low: float, high: float) -> tuple[int, NDArray[np.floating[Any]]]:
    """How many kept scores lie below, and those from one pivot to the other, both included."""
    n_below, parts = 0, []
    for layer in layers:
        below = _and(layer.scores < low, layer.kept)
        between = _and(layer.scores <= high, layer.kept)
        between ^= below
        n_below += _count(below)
        parts.append(_array(layer.scores[between]))
    return n_below, np.concatenate(parts)


def _shares(n_each: Sequence[int], n: int) -> list[int]:
    """A number split in proportion to n_each, in whole numbers: largest remainders, the first of equal ones."""
    exact = [Fraction(m * n, sum(n_each)) for m in n_each]
    shares = [int(share) for share in exact]
    order = sorted(range(len(exact)), key=lambda i: (shares[i] - exact[i], i))
    for i in order[: n - sum(shares)]:
        shares[i] += 1
    return shares


def _spread(m: int, r: int) -> NDArray[np.bool_]:
    """Choice of r of m places, one at a scattered position in each of r equal stretches.

    A regular step would do as well but for matrices as wide as a multiple of it, which would lose whole columns.
    """
    if 2 * r > m:
        return ~_spread(m, m - r)
    chosen = np.zeros(m, dtype=bool)
    if r:
        stretch = np.arange(r, dtype=np.int64)
        start = stretch * m // r
        width = (stretch + 1) * m // r - start
        chosen[start + (_scattered(stretch) % width.astype(np.uint64)).astype(np.int64)] = True
    return chosen


def _scattered(i: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A fixed hash of whole numbers, SplitMix64 (Steele, Lea & Flood 2014)."""
    z = (i.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _and(flags: Array, kept: Array) -> Array:
    """Flags that are also kept, in place of the flags."""
    flags &= kept
    return flags


def _count(flags: Array) -> int:
    """How many are true, in integers."""
    return int(np.count_nonzero(flags) if isinstance(flags, np.ndarray) else torch.count_nonzero(flags))


def _array(values: Array) -> NDArray[Any]:
    """On the CPU, as NumPy has it."""
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()


def _like(values: NDArray[Any], other: Array) -> Array:
    """As NumPy or torch has the other one, and where it is."""
    return values if isinstance(other, np.ndarray) else torch.from_numpy(values).to(other.device)


def _tensor(flags: Array) -> Tensor:
    """As torch has it."""
    return torch.from_numpy(flags) if isinstance(flags, np.ndarray) else flags
