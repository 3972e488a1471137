"""Criteria of the weights alone: magnitude, movement, chance."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepprobe.errors import ConfigError, ShapeError, UnknownNameError
from deepprobe.pruning.criteria import CRITERIA, Subject, criterion_of
from deepprobe.pruning.masks import Masks


def subject(**settings: object) -> Subject:
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -0.25]]))
    return Subject(net, Masks.dense(net), **settings)  # type: ignore[arg-type]


INITIAL = {"weight": torch.tensor([[-1.5, -1.0, 0.25], [0.5, 3.0, 0.25]])}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("magnitude", [[1.0, 2.0, 0.5], [0.0, 3.0, 0.25]]),
        ("magnitude-increase", [[-0.5, 1.0, 0.25], [-0.5, 0.0, 0.0]]),
        ("movement", [[2.5, 1.0, 0.25], [0.5, 0.0, 0.5]]),
    ],
)
def test_scores_by_hand(name: str, expected: list[list[float]]) -> None:
    found = CRITERIA[name](subject(initial=INITIAL))
    assert found["weight"].tolist() == expected
    assert not found["weight"].requires_grad


def test_chance_is_of_the_seed_and_uniform() -> None:
    net = nn.Sequential(nn.Linear(200, 100), nn.Linear(100, 200))
    masks = Masks.dense(net)
    first, again, other = (CRITERIA["random"](Subject(net, masks, seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in masks)
    assert not torch.equal(first["0.weight"], other["0.weight"])
    assert not torch.equal(first["0.weight"].ravel(), first["1.weight"].ravel())
    assert abs(float(first["0.weight"].double().mean()) - 0.5) < 4 * (1 / 12 / 20_000) ** 0.5


def test_initial_weights_are_needed_and_must_fit() -> None:
    for name in ("movement", "magnitude-increase"):
        with pytest.raises(ConfigError, match=f"the criterion '{name}' compares with the weights at initialisation"):
            CRITERIA[name](subject())
    with pytest.raises(ShapeError, match="initial: 'weight' is missing"):
        CRITERIA["movement"](subject(initial={}))
    with pytest.raises(ShapeError, match=r"initial: 'weight' has the shape \(3, 2\); the model's has \(2, 3\)"):
        CRITERIA["movement"](subject(initial={"weight": torch.zeros(3, 2)}))


def test_criteria_by_name() -> None:
    assert criterion_of("magnitude") is CRITERIA["magnitude"]
    assert criterion_of(CRITERIA["snip"]) is CRITERIA["snip"]
    with pytest.raises(UnknownNameError, match="criterion='magnitud' is not a criterion: did you mean 'magnitude'"):
        criterion_of("magnitud")
    with pytest.raises(ConfigError, match="criterion=3 is neither a name nor a function"):
        criterion_of(3)  # type: ignore[arg-type]
