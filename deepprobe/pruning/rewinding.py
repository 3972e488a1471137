"""To where a pruned network goes back before it is trained again.

==================  ================================================================================================
"init", "0it"       the initial weights (Frankle & Carbin 2019)
"500it", "2ep"      step k of the dense training: weights, BatchNorm statistics, optimizer, learning-rate schedule,
                    order of the data, random states (Frankle et al. 2020)
"lr", "lr:2ep"      learning-rate rewinding: trained weights and statistics stay, a new optimizer goes through the
                    schedule and the data again, from the start or from step k (Renda et al. 2020)
"fine-tune"         trained weights and statistics stay; a new optimizer, the last learning rate, another data order
"none"              as "fine-tune", and optimizer and random states go on too
==================  ================================================================================================
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from deepprobe.errors import ConfigError
from deepprobe.hooks.select import unwrapped
from deepprobe.records.step import Length
from deepprobe.training.checkpoint import Checkpoint, load_checkpoint, put_weights
from deepprobe.training.learning_rate import learning_rate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from deepprobe.pruning.masks import Masks
    from deepprobe.training.config import TrainConfig

Kind = Literal["weights", "learning-rate", "fine-tune", "none"]

FORMS = "'init', a step such as '500it' or '2ep', 'lr', 'lr:2ep', 'fine-tune' or 'none'"


@dataclass(frozen=True)
class Rewinding:
    """What goes back, and to where.

    Attributes:
        kind: weights (and everything with them), learning-rate, fine-tune or none.
        point: Step of the dense training that is gone back to; of the weights, or of the schedule alone.
    """

    kind: Kind
    point: Length = field(default_factory=Length)

    @classmethod
    def parse(cls, text: str) -> Rewinding:
        """Read one of the forms of this module's table; ConfigError if the text is none of them."""
        if text == "fine-tune":
            return cls("fine-tune")
        if text == "none":
            return cls("none")
        if text == "init":
            return cls("weights")
        is_rate = text == "lr" or text.startswith("lr:")
        try:
            return cls("learning-rate" if is_rate else "weights", Length.parse(text[3:] or "0it" if is_rate else text))
        except ConfigError:
            raise ConfigError(f"rewind={text!r}: write {FORMS}") from None

    def config(self, config: TrainConfig) -> TrainConfig:
        """How a pruned network is trained; ConfigError if the schedule's last rate trains nothing."""
        if self.kind in ("weights", "learning-rate"):
            return config
        if config.schedule in ("cosine", "one-cycle"):
            raise ConfigError(
                f"rewind={self.kind!r} goes on at the last learning rate of the schedule, and that of "
                f"{config.schedule!r} is nearly 0; take schedule 'step' or 'constant', or rewind='lr'"
            )
        rate = learning_rate(config, config.epochs * 1000 - 1, iterations_per_epoch=1000)
        return replace(config, schedule="constant", lr=rate, warmup_epochs=0.0)

    def start(self, state: Checkpoint, masks: Masks) -> Checkpoint:
        """The state that training a ticket begins from.

        Args:
            state: With its training state: of the dense training at the point, where weights are rewound; else that at
                the end of the round before.
            masks: What is kept; removed weights are zero in what is returned.

        Returns:
            A checkpoint that shares no memory with that given.
        """
        start = masked(state, masks)
        if self.kind == "weights":
            return start
        training: dict[str, Any] = dict(start.training or {})
        training |= {"index": self.point.iterations_in(training["iterations_per_epoch"])}
        if self.kind != "none":
            training |= {"optimizer": None, "ranks": None}
        return replace(start, training=training)


def masked(checkpoint: Checkpoint, masks: Masks) -> Checkpoint:
    """A copy of a checkpoint in which removed weights are zero; nothing in it is shared with the other."""
    copies: dict[tuple[Any, ...], Tensor] = {}  # weights that layers share stay shared, so that masks hold for each
    weights = {}
    for name, tensor in checkpoint.weights.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        weights[name] = copies[place] if place in copies else copies.setdefault(place, tensor.clone())
    for name, mask in masks.items():
        weights[name].masked_fill_(~mask.cpu(), 0)
    return replace(checkpoint, weights=weights, training=deepcopy(checkpoint.training))


def rewind(
    model: nn.Module,
    checkpoint: Checkpoint | Mapping[str, Tensor] | Path | str,
    masks: Masks,
    *,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Take a network back to a state, with the removed weights at zero: for a training loop of one's own.

    Args:
        model: Gets the weights and statistics by copy; unchanged if they do not fit. Wrappers are looked through.
        checkpoint: A state dict, a ``Checkpoint``, or a file of either.
        masks: What is kept.
        optimizer: Gets the checkpoint's optimizer state, if it has one, else forgets everything; what it would
            remember of removed weights is zero.

    Raises:
        CheckpointError: If the file is damaged, or its weights are of another network.
        ShapeError: If the masks are not of this model.
    """
    masks.parameters_of(model)
    if isinstance(checkpoint, Checkpoint):
        state, origin = checkpoint, "the checkpoint"
    elif hasattr(checkpoint, "items"):
        state, origin = Checkpoint(dict(checkpoint.items())), "the state dict"
    else:
        state, origin = load_checkpoint(checkpoint), str(checkpoint)
    is_as_wrapped = model.state_dict().keys() == state.weights.keys()
    put_weights(model if is_as_wrapped else unwrapped(model), state.weights, origin=origin)
    masks.apply(model)
    if optimizer is None:
        return
    kept = (state.training or {}).get("optimizer")
    optimizer.state.clear()
    if kept is not None:
        optimizer.load_state_dict(deepcopy(kept))
    masks.clear(optimizer, model)
