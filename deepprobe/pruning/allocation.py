"""Allocation: how many weights stay, of the whole network or of each layer, in exact rational numbers.

After rounds that prune the shares p₁ … p_r of what is left, round(N Π (1 − pᵢ)) of the N weights stay, so that rounding
errors never add up; layer by layer round(N_l Π (1 − pᵢ · rate_l)). Halves are rounded to even.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from math import prod
from numbers import Rational
from typing import TYPE_CHECKING

from deepprobe.errors import ConfigError, nearest
from deepprobe.pruning.prunable import rates_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepprobe.pruning.masks import Masks

ALLOCATIONS = ("global", "layerwise")


def exact(number: float | str | Rational, *, what: str = "fraction") -> Fraction:
    """The rational number that was meant: 1/5 for 0.2, not the nearest binary fraction.

    Args:
        number: A share of something.
        what: Its name in the error message.

    Raises:
        ConfigError: If it does not lie between 0 and 1, both excluded.

    Example:
        >>> exact(0.2)
        Fraction(1, 5)
    """
    try:
        found = Fraction(number) if isinstance(number, Rational) else Fraction(str(number))
    except ValueError:
        found = Fraction(0)
    if not 0 < found < 1:
        raise ConfigError(f"{what}={number!r}: a share of the weights lies between 0 and 1, both excluded, such as 0.2")
    return found


def shares_of(densities: Sequence[float | str | Rational]) -> list[Fraction]:
    """What each round prunes of the weights that are left, for densities that are to be reached one after the other.

    Raises:
        ConfigError: If a density does not lie between 0 and 1, or is not below the one before.

    Example:
        >>> shares_of([0.5, 0.1])
        [Fraction(1, 2), Fraction(4, 5)]
    """
    wanted = [Fraction(1), *(exact(density, what="density") for density in densities)]
    for number, (before, after) in enumerate(pairwise(wanted), start=1):
        if after >= before:
            shown = [float(density) for density in wanted[1:]]
            raise ConfigError(f"densities={shown}: number {number} is not below the one before")
    return [1 - after / before for before, after in pairwise(wanted)]


def kept_after(
    sizes: Mapping[str, int],
    shares: Sequence[float | str | Rational],
    *,
    allocation: str = "global",
    rates: Mapping[str, float] | None = None,
) -> int | dict[str, int]:
    """How many weights stay after rounds of pruning.

    Args:
        sizes: Weights of each parameter that are kept before the first of the rounds.
        shares: What each round prunes of what is left, one number a round; for a density d, ``[1 - d]``.
        allocation: ``global``, or ``layerwise``: the same share of each parameter.
        rates: Only layerwise: glob over layer names, or ``output`` for the last layer, to the factor on the share, as
            0.5 for an output layer that is pruned at half the rate.

    Returns:
        One number for all parameters, or one for each.

    Raises:
        ConfigError: If the allocation is neither, a share does not lie between 0 and 1, rates come with a global
            allocation, or a rate times a share is 1 or more.
        UnknownNameError: If a rate matches no layer.

    Example:
        >>> kept_after({"fc1.weight": 235_200, "fc2.weight": 30_000, "fc3.weight": 1_000}, [0.2] * 7)
        55826
    """
    pruned = [exact(share) for share in shares]
    if allocation not in ALLOCATIONS:
        raise ConfigError(f"allocation={allocation!r} is not an allocation: {nearest(str(allocation), ALLOCATIONS)}")
    if allocation == "global":
        if rates:
            raise ConfigError(f"rates={dict(rates)} need allocation='layerwise': a global selection has one share")
        return round(sum(sizes.values()) * prod(1 - share for share in pruned))
    factors = {name: Fraction(str(rate)) for name, rate in rates_of(list(sizes), rates or {}).items()}
    for name, rate in factors.items():
        if rate * max(pruned, default=0) >= 1:
            raise ConfigError(
                f"rates: {name} at {float(rate):g} times the fraction {float(max(pruned)):g} would lose every weight"
            )
    return {name: round(n * prod(1 - share * factors[name] for share in pruned)) for name, n in sizes.items()}


def to_remove(masks: Masks, kept: int | Mapping[str, int]) -> int | dict[str, int]:
    """How many weights go from masks so that as many stay as asked for.

    Args:
        masks: What is kept now.
        kept: What is to stay, as from ``kept_after``.

    Returns:
        One number, or one for each parameter.

    Raises:
        ConfigError: If more are to stay than are kept now.
    """
    counts = masks.counts
    if isinstance(kept, Mapping):
        return {name: _difference(counts[name], n, name) for name, n in kept.items()}
    return _difference(sum(counts.values()), kept, "the network")


def _difference(now: int, then: int, what: str) -> int:
    """Now minus then, if it is not negative."""
    if then > now:
        raise ConfigError(f"{then} weights of {what} are to stay, but only {now} are kept")
    return now - then
