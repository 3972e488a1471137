"""How far training has moved a weight from where it began.

Zhou et al. (2019), "Deconstructing lottery tickets", section 2: ``magnitude_increase`` |w_T| − |w_0|, and
``movement`` |w_T − w_0|.
"""

from __future__ import annotations

from torch import Tensor

from deepprobe.pruning.criteria.subject import Subject


def magnitude_increase(subject: Subject) -> dict[str, Tensor]:
    """How much the magnitude of each weight has grown: negative where it has shrunk.

    Raises:
        ConfigError: If the subject has no initial weights.
        ShapeError: If they are of another network.
    """
    before = subject.beginning("magnitude-increase")
    return {name: p.detach().abs() - before[name].abs() for name, p in subject.parameters().items()}


def movement(subject: Subject) -> dict[str, Tensor]:
    """Distance of each weight from its initial value.

    Raises:
        ConfigError: If the subject has no initial weights.
        ShapeError: If they are of another network.
    """
    before = subject.beginning("movement")
    return {name: (p.detach() - before[name]).abs() for name, p in subject.parameters().items()}
