"""The tensors themselves, for one forward pass."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from deepprobe.hooks.attach import attached
from deepprobe.hooks.select import LayerSelection, select_layers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from deepprobe.records.layer import LayerCall


@contextmanager
def capture(model: nn.Module, *, layers: LayerSelection = None, tap: str = "output") -> Iterator[dict[str, Tensor]]:
    """Keep what the chosen layers receive or give, as long as the context lasts.

    Args:
        model: Any module.
        layers: Glob, class, predicate, or several; see ``select_layers``.
        tap: ``input``, ``output`` or ``block``.

    Yields:
        Mapping from layer call (``"conv1"``, ``"relu#2"`` for a second call, ``"lstm[0]"`` inside a tuple) to a
        detached copy of the tensor in the latest forward pass – a copy because a later in-place operation would
        overwrite what was kept.

    Raises:
        ConfigError: If the tap is none of these.
        UnknownNameError: If nothing matches.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(inplace=True))
        >>> with capture(model, layers="0") as tensors:
        ...     _ = model(torch.ones(4, 3))
        >>> tensors["0"].shape
        torch.Size([4, 2])
    """
    kept: dict[str, Tensor] = {}

    def keep(call: LayerCall, tensor: Tensor) -> None:
        if call.order == 0:
            kept.clear()
        kept[call.key] = tensor.detach().clone()

    with attached(model, select_layers(model, layers, tap=tap), tap=tap, on_tensor=keep):
        yield kept
