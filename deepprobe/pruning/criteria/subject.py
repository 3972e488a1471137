"""What a criterion may look at, and errors for what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.pruning.masks import Masks


@dataclass(frozen=True, eq=False)
class Subject:
    """A network that is about to be pruned.

    Attributes:
        model: Weights as they are now, removed ones zero; a criterion leaves everything in it as found.
        masks: What is kept now.
        initial: Weights at initialisation by parameter name, for criteria that compare.
        batches: Training samples, pairs (input, integer target), for criteria that need gradients.
        seed: Of what a criterion draws.
    """

    model: nn.Module
    masks: Masks
    initial: Mapping[str, Tensor] | None = None
    batches: Sequence[Any] = ()
    seed: int = 0

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that the masks are of; ShapeError if the model does not have them."""
        return self.masks.parameters_of(self.model)

    def samples(self, criterion: str) -> Sequence[Any]:
        """The batches; ConfigError, in the name of the criterion, if there are none."""
        if len(self.batches) == 0:
            raise ConfigError(
                f"the criterion {criterion!r} looks at training samples; pass batches=[(inputs, targets)]"
            )
        return self.batches

    def beginning(self, criterion: str) -> dict[str, Tensor]:
        """Initial weights of the masked parameters, where these are; an error if one is missing or does not fit."""
        if self.initial is None:
            raise ConfigError(
                f"the criterion {criterion!r} compares with the weights at initialisation; pass initial=, a state dict"
            )
        found = {}
        for name, parameter in self.parameters().items():
            before = self.initial.get(name)
            if before is None or before.shape != parameter.shape:
                shown = "is missing" if before is None else f"has the shape {tuple(before.shape)}"
                raise ShapeError(f"initial: {name!r} {shown}; the model's has {tuple(parameter.shape)}")
            found[name] = before.detach().to(device=parameter.device, dtype=parameter.dtype)
        return found


Criterion: TypeAlias = Callable[[Subject], dict[str, Tensor]]
"""A score for each entry of each mask, of its shape; higher is more worth keeping, removed entries are ignored."""
