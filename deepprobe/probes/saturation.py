"""The flat part of a non-linearity's range: where its slope is at most a tenth of its greatest.

Glorot & Bengio (2010, section 3) call a unit saturated that is stuck where its non-linearity is flat. The tenth is our
choice: for tanh |y| ≥ √0.9 = 0.949, for the sigmoid y ≤ 0.026 or y ≥ 0.974, for softsign |y| ≥ 1 − √0.1 = 0.684. The
piecewise linear ones are flat at their limits; the zeros of ReLU6 are, as those of ReLU, a unit that does not fire.
"""

from __future__ import annotations

from contextlib import contextmanager
from math import inf, sqrt
from typing import TYPE_CHECKING

from torch import nn

from deepprobe.hooks.attach import attached
from deepprobe.hooks.select import unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from deepprobe.records.layer import LayerCall

FLAT_SLOPE = 0.1
"""Share of the greatest slope at and below which a non-linearity counts as flat."""

Flat = tuple[float, float]


def flat_part(module: nn.Module | None) -> Flat | None:
    """Up to which and from which output on a module is flat; None where it is not one of the bounded ones.

    Example:
        >>> low, high = flat_part(nn.Tanh())
        >>> round(high, 3)
        0.949
    """
    if isinstance(module, nn.Tanh):
        return -sqrt(1 - FLAT_SLOPE), sqrt(1 - FLAT_SLOPE)
    if isinstance(module, nn.Sigmoid):
        return (1 - sqrt(1 - FLAT_SLOPE)) / 2, (1 + sqrt(1 - FLAT_SLOPE)) / 2
    if isinstance(module, nn.Softsign):
        return sqrt(FLAT_SLOPE) - 1, 1 - sqrt(FLAT_SLOPE)
    if isinstance(module, nn.ReLU6):
        return -inf, 6.0
    if isinstance(module, nn.Hardtanh):
        return float(module.min_val), float(module.max_val)
    return (0.0, 1.0) if isinstance(module, nn.Hardsigmoid) else None


class LastBounded:
    """Knows a tensor that came straight out of a bounded non-linearity, also reshaped: it is still the same memory."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = {n: m for n, m in unwrapped(model).named_modules() if flat_part(m) is not None}
        self._last: tuple[Tensor, int, Flat | None] | None = None

    def note(self, call: LayerCall, tensor: Tensor) -> None:
        """Remember what a non-linearity gave; it is kept alive, so that its memory is no other tensor's."""
        self._last = tensor, _version(tensor), flat_part(self.modules.get(call.layer))

    def flat_part_of(self, tensor: Tensor) -> Flat | None:
        """The flat part of the non-linearity whose latest output this is, unless it was changed in place."""
        if self._last is None:
            return None
        known, version, flat = self._last
        same = (known.data_ptr(), known.numel(), _version(known)) == (tensor.data_ptr(), tensor.numel(), version)
        return flat if same else None

    def forget(self) -> None:
        """Let the tensor go."""
        self._last = None


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place; tensors of inference mode do not count that."""
    return 0 if tensor.is_inference() else tensor._version


@contextmanager
def last_bounded(model: nn.Module) -> Iterator[LastBounded]:
    """Watch the bounded non-linearities of a model while the context lasts."""
    known = LastBounded(model)
    with attached(model, known.modules, tap="output", on_tensor=known.note):
        yield known
