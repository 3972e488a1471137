"""Labels that a prediction can be made from: integers for which the network has a score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from deepprobe.errors import ConfigError

if TYPE_CHECKING:
    from deepprobe.probes.gradients import Loss

IGNORED = -100
"""The label that torch's cross-entropy passes over."""


def check_labels(batch: Any) -> None:
    """Refuse a batch without integer labels.

    Raises:
        ConfigError: If what comes with the input, or the ``labels`` of a dict, holds no integers.
    """
    beside = list(batch[1:]) if isinstance(batch, (tuple, list)) else []
    if isinstance(batch, Mapping):
        beside = [batch["labels"]] if "labels" in batch else list(batch.values())
    tensors = [part for part in beside if isinstance(part, Tensor)]
    if all(t.is_floating_point() or t.is_complex() for t in tensors):
        kinds = ", ".join(str(t.dtype).removeprefix("torch.") for t in tensors)
        raise ConfigError(
            "will_it_train knows classification only, from integer labels; this batch has "
            f"{f'targets of {kinds}' if kinds else 'no targets'}. There is no calibration for regression: dp.diagnose "
            "looks at such a network too"
        )


@contextmanager
def labels_in_range(network: nn.Module, batch: Any, loss: Loss | None) -> Iterator[None]:
    """While this lasts, refuse labels of a pair for which the network has no score, before cross-entropy meets them.

    A loss of the person's own may read labels as it likes.
    """

    def check(module: nn.Module, given: object, output: object) -> None:
        if isinstance(output, Tensor):
            _check_range(batch[1], output.shape[1] if output.ndim > 1 else 1)

    if loss is not None or not isinstance(batch, tuple) or len(batch) != 2:
        yield
        return
    handle = network.register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()


def _check_range(labels: Tensor, n_classes: int) -> None:
    """ConfigError if a label is no class."""
    used = labels[labels != IGNORED]
    if used.numel() and not bool(((used >= 0) & (used < n_classes)).all()):
        raise ConfigError(
            f"the batch has labels from {int(used.min())} to {int(used.max())}, but the model gives {n_classes} "
            "scores a sample; labels count from 0"
        )
