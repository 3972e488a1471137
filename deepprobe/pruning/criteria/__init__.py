"""Criteria: a score for each weight, higher for those more worth keeping."""

from deepprobe.errors import ConfigError, UnknownNameError, nearest
from deepprobe.pruning.criteria.chance import random
from deepprobe.pruning.criteria.gradient_weight import gradient_weight
from deepprobe.pruning.criteria.grasp import grasp
from deepprobe.pruning.criteria.magnitude import magnitude
from deepprobe.pruning.criteria.movement import magnitude_increase, movement
from deepprobe.pruning.criteria.snip import snip
from deepprobe.pruning.criteria.subject import Criterion, Subject
from deepprobe.pruning.criteria.synflow import synflow

CRITERIA: dict[str, Criterion] = {
    "magnitude": magnitude, "random": random, "gradient-weight": gradient_weight, "snip": snip, "grasp": grasp,
    "synflow": synflow, "magnitude-increase": magnitude_increase, "movement": movement,
}  # fmt: skip
"""Criteria by name; a function of a ``Subject`` serves wherever a name does."""

BEFORE_TRAINING = frozenset({"snip", "grasp", "synflow"})
"""Those that were made for untrained weights."""

NEEDS_BATCHES = frozenset({"gradient-weight", "snip", "grasp", "synflow"})
"""Those that look at training samples (synflow: at their shape)."""

NEEDS_INITIAL = frozenset({"magnitude-increase", "movement"})
"""Those that compare with the weights at initialisation."""

STEPS = {"synflow": 100}
"""Steps in which one removal is made, scoring anew in between, where it is more than one."""


def criterion_of(criterion: str | Criterion) -> Criterion:
    """The criterion of that name, or the function itself.

    Raises:
        UnknownNameError: If there is none of that name.
        ConfigError: If it is neither a name nor a function.
    """
    if isinstance(criterion, str):
        if criterion not in CRITERIA:
            raise UnknownNameError(f"criterion={criterion!r} is not a criterion: {nearest(criterion, CRITERIA)}")
        return CRITERIA[criterion]
    if not callable(criterion):
        raise ConfigError(f"criterion={criterion!r} is neither a name nor a function of a Subject")
    return criterion


__all__ = [
    "BEFORE_TRAINING", "CRITERIA", "Criterion", "NEEDS_BATCHES", "NEEDS_INITIAL", "STEPS", "Subject", "criterion_of",
]  # fmt: skip
