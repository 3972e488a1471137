"""Allocation: how many weights stay, of the whole network or of each layer, in exact rational numbers.

After r rounds that each prune the share p of what is left, round(N (1 − p)^r) of the N weights stay, so that rounding
errors never add up; layer by layer round(N_l (1 − p · rate_l)^r). Halves are rounded to even.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from numbers import Rational
from typing import TYPE_CHECKING

from deepprobe.errors import ConfigError, nearest
from deepprobe.pruning.prunable import rates_of

if TYPE_CHECKING:
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


def kept_after(
    sizes: Mapping[str, int],
    fraction: float | str | Rational,
    rounds: int = 1,
    *,
    allocation: str = "global",
    rates: Mapping[str, float] | None = None,
) -> int | dict[str, int]:
    """How many weights stay after rounds of pruning.

    Args:
        sizes: Weights of each parameter that are kept before the first of the rounds.
        fraction: What each round prunes of what is left; for a density d, 1 - d in one round.
        rounds: How many there are.
        allocation: ``global``, or ``layerwise``: the same share of each parameter.
        rates: Only layerwise: glob over layer names, or ``output`` for the last layer, to the factor on the share, as
            0.5 for an output layer that is pruned at half the rate.

    Returns:
        One number for all parameters, or one for each.

    Raises:
        ConfigError: If the allocation is neither, the fraction does not lie between 0 and 1, rates come with a global
            allocation, or a rate times the fraction is 1 or more.
        UnknownNameError: If a rate matches no layer.

    Example:
        >>> kept_after({"fc1.weight": 235_200, "fc2.weight": 30_000, "fc3.weight": 1_000}, 0.2, 7)
        55826
    """
    share = exact(fraction)
    if allocation not in ALLOCATIONS:
        raise ConfigError(f"allocation={allocation!r} is not an allocation: {nearest(str(allocation), ALLOCATIONS)}")
    if allocation == "global":
        if rates:
            raise ConfigError(f"rates={dict(rates)} need allocation='layerwise': a global selection has one share")
        return round(sum(sizes.values()) * (1 - share) ** rounds)
    factors = {name: Fraction(str(rate)) for name, rate in rates_of(list(sizes), rates or {}).items()}
    for name, rate in factors.items():
        if rate * share >= 1:
            raise ConfigError(
                f"rates: {name} at {float(rate):g} times the fraction {float(share):g} would lose every weight"
            )
    return {name: round(n * (1 - share * factors[name]) ** rounds) for name, n in sizes.items()}


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
