"""Counts against plain integer and decimal arithmetic."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, getcontext
from fractions import Fraction

import pytest
import torch

from deepprobe.errors import ConfigError, UnknownNameError
from deepprobe.pruning.allocation import exact, kept_after, shares_of, to_remove
from deepprobe.pruning.masks import Masks
from deepprobe.pruning.selection import lowest_removed

LENET = {"fc1.weight": 235_200, "fc2.weight": 30_000, "fc3.weight": 1_000}


def decimal_count(n: int, factor: str, rounds: int) -> int:
    getcontext().prec = 200
    return int((Decimal(n) * Decimal(factor) ** rounds).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


@pytest.mark.parametrize("rounds", [0, 1, 7, 15, 20, 30])
def test_global_counts_have_no_drift(rounds: int) -> None:
    assert kept_after(LENET, [0.2] * rounds) == decimal_count(266_200, "0.8", rounds)
    assert kept_after({"a.weight": 1_679_104}, ["0.2"] * rounds) == decimal_count(1_679_104, "0.8", rounds)


@pytest.mark.parametrize("rounds", [1, 7, 15, 25])
def test_layers_have_their_own_rates(rounds: int) -> None:
    found = kept_after(LENET, [0.2] * rounds, allocation="layerwise", rates={"output": 0.5, "fc2": 0})
    assert found == {
        "fc1.weight": decimal_count(235_200, "0.8", rounds), "fc2.weight": 30_000,
        "fc3.weight": decimal_count(1_000, "0.9", rounds),
    }  # fmt: skip


def test_the_share_is_the_decimal_number_that_was_written() -> None:
    assert exact(0.2) == Fraction(1, 5) != Fraction(0.2)
    assert exact("1e-3") == Fraction(1, 1000)
    assert exact(Fraction(1, 3)) == Fraction(1, 3)
    assert kept_after({"a": 10**18}, [0.1]) == 9 * 10**17  # a float product is 100 off here


def test_given_densities_are_met_to_the_weight() -> None:
    densities = [0.513, 0.211, 0.07, 0.036]
    for i in range(1, 5):
        assert kept_after(LENET, shares_of(densities[:i])) == round(266_200 * Fraction(str(densities[i - 1])))
    found = kept_after(LENET, shares_of(densities), allocation="layerwise")
    assert found == {name: round(n * Fraction("0.036")) for name, n in LENET.items()}


def test_twenty_rounds_of_removals_end_at_the_exact_count() -> None:
    sizes = {"a.weight": 10_007, "b.weight": 331}
    scores = {name: torch.rand(n, generator=torch.Generator().manual_seed(0)) for name, n in sizes.items()}
    for allocation in ("global", "layerwise"):
        masks = Masks({name: torch.ones(n, dtype=torch.bool) for name, n in sizes.items()})
        for rounds in range(1, 21):
            kept = kept_after(sizes, [0.2] * rounds, allocation=allocation)
            masks = lowest_removed(scores, masks, to_remove(masks, kept))
        if allocation == "global":
            assert masks.n_kept == decimal_count(10_338, "0.8", 20)
        else:
            assert masks.counts == {name: decimal_count(n, "0.8", 20) for name, n in sizes.items()}


@pytest.mark.parametrize("share", [0, 1, -0.2, 20, float("nan"), float("inf"), "much", "0"])
def test_shares_outside_of_0_and_1(share: float | str) -> None:
    with pytest.raises(ConfigError) as caught:
        kept_after(LENET, [share])
    assert str(caught.value) == (
        f"fraction={share!r}: a share of the weights lies between 0 and 1, both excluded, such as 0.2"
    )


def test_what_does_not_go_together() -> None:
    with pytest.raises(ConfigError, match="allocation='globl' is not an allocation: did you mean 'global'"):
        kept_after(LENET, [0.2], allocation="globl")
    with pytest.raises(ConfigError, match="need allocation='layerwise'"):
        kept_after(LENET, [0.2], rates={"output": 0.5})
    with pytest.raises(ConfigError, match=r"fc3\.weight at 5 times the fraction 0.2 would lose every weight"):
        kept_after(LENET, [0.2], allocation="layerwise", rates={"output": 5})
    with pytest.raises(UnknownNameError, match="'fc9' matches no layer"):
        kept_after(LENET, [0.2], allocation="layerwise", rates={"fc9": 0.5})
    with pytest.raises(ConfigError, match=r"densities=\[0.5, 0.5\]: number 2 is not below the one before"):
        shares_of([0.5, 0.5])
    with pytest.raises(ConfigError, match="density=1: a share of the weights lies between 0 and 1"):
        shares_of([1])
    with pytest.raises(ConfigError, match="3 weights of the network are to stay, but only 2 are kept"):
        to_remove(Masks({"a": torch.tensor([True, True, False])}), 3)
