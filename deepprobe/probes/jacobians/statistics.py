"""Batch normalisation whose statistics are a batch's own and yet constants: what makes samples independent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from deepprobe.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable

_NAMES: dict[Any, tuple[str, ...]] = {
    F.batch_norm: ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    torch.batch_norm: (
        "input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled",
    ),
}  # fmt: skip
_DEFAULTS = {"weight": None, "bias": None, "training": False, "eps": 1e-5}


class BatchStatistics(TorchFunctionMode):
    """While active, batch normalisation over a batch uses that batch's mean and variance and keeps them, call by call.

    Nothing is differentiated through them, and running statistics stay as they are. Calls that normalise by running
    statistics are left alone.

    Args:
        kept: Statistics of a pass before, used in the order of its calls in place of this batch's own.

    Attributes:
        found: Mean and biased variance of each call, shape (channels,) each.
    """

    def __init__(self, kept: list[tuple[Tensor, Tensor]] | None = None) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, Tensor]] = []
        self._kept = kept

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function, batch normalisation over a batch with constants for its statistics."""
        given = dict(kwargs or {})
        if func not in _NAMES:
            return func(*args, **given)
        named = _DEFAULTS | dict(zip(_NAMES[func], args, strict=False)) | given
        if not named["training"]:
            return func(*args, **given)
        mean, variance = self._statistics(named["input"])
        self.found.append((mean, variance))
        return F.batch_norm(
            named["input"], mean, variance, named["weight"], named["bias"], training=False, eps=named["eps"]
        )

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Those kept for this call, else the batch's own."""
        if self._kept is not None:
            return self._kept[len(self.found)]
        if x.numel() == x.shape[1]:
            raise ShapeError(
                f"batch normalisation by the batch's own statistics (mode='train') of a tensor of shape "
                f"{tuple(x.shape)} has one value a channel: pass larger batches, or mode='eval'"
            )
        variance, mean = torch.var_mean(x.detach(), [0, *range(2, x.ndim)], correction=0)
        return mean, variance
