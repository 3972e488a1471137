"""Magnitude: |w|, the criterion of the lottery ticket hypothesis.

Han et al. (2015), "Learning both weights and connections"; Frankle & Carbin (2019).
"""

from __future__ import annotations

from torch import Tensor

from deepprobe.pruning.criteria.subject import Subject


def magnitude(subject: Subject) -> dict[str, Tensor]:
    """Absolute value of each weight."""
    return {name: parameter.detach().abs() for name, parameter in subject.parameters().items()}
