"""NaN and infinity in training: the weights kept from them, and where they first stand in a network."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

import torch

from deepprobe.seeding import preserved_random_states

if TYPE_CHECKING:
    from torch import Tensor, nn

    from deepprobe.distributed import Ranks

MOST_BYTES_KEPT = 256 * 2**20
"""Inputs that are kept until the losses are looked at: 160 batches of CIFAR-10, or one of larger images."""


class LossGuard:
    """Keeps an optimizer from changing the weights once a loss was not finite, without a look at any number.

    Fused optimizers leave the weights alone where their ``found_inf`` is 1 (made for gradient scaling). It stays 1
    here from the first such loss on, so that whoever looks later finds the weights that gave it.

    Args:
        optimizer: Fused.
        device: Where losses are.
        ranks: The processes that train together; a loss of one of them counts for all.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, device: torch.device, ranks: Ranks) -> None:
        self._ranks = ranks
        self._held = torch.zeros((), device=device)
        self._n_held = torch.zeros((), device=device)
        self._losses: list[Tensor] = []  # since the last look
        optimizer.found_inf = self._held  # type: ignore[attr-defined]  # read by step(), as GradScaler sets it

    @torch.no_grad()
    def holds(self, loss: Tensor) -> bool:
        """Take the loss of an update, before the optimizer's step; collective where there are several ranks.

        Returns:
            Whether the step must not be made, where that is known at once.
        """
        bad = self._ranks.total((loss - loss).ne_(0))  # 0 of a finite number, else NaN
        torch.maximum(self._held, bad.clamp(max=1), out=self._held)
        self._n_held += self._held
        self._losses.append(loss)
        return False

    def read(self) -> tuple[int, float] | None:
        """How many updates were held back since the first loss that was not finite, and this rank's loss then.

        None if all were finite. Waits for the device.
        """
        n_held, losses = int(self._n_held.item()), self._losses
        self._losses = []
        return (n_held, losses[-n_held].item()) if n_held else None


class LossGuardOfCPU:
    """The same where a look at a number costs nothing: the optimizer's step is left out.

    Args:
        ranks: The processes that train together; a loss of one of them counts for all.
    """

    def __init__(self, *, ranks: Ranks) -> None:
        self._ranks = ranks
        self._found: tuple[int, float] | None = None

    def holds(self, loss: Tensor) -> bool:
        """As LossGuard's."""
        value = loss.item()
        if self._ranks.agree([not math.isfinite(value)])[0]:
            self._found = (1, value)
        return self._found is not None

    def read(self) -> tuple[int, float] | None:
        """As LossGuard's."""
        return self._found


class RecentInputs:
    """Inputs of the last updates, as many as a share of memory allows: one of them may be the one to be looked into."""

    def __init__(self) -> None:
        self._inputs: deque[Tensor] = deque()
        self._n_bytes = 0

    def add(self, x: Tensor) -> None:
        """Keep another; the oldest go where there are too many."""
        self._inputs.append(x)
        self._n_bytes += x.nbytes
        while self._n_bytes > MOST_BYTES_KEPT and len(self._inputs) > 1:
            self._n_bytes -= self._inputs.popleft().nbytes

    def taken(self) -> list[Tensor]:
        """Those that are kept, the latest last; they are kept no longer."""
        taken = list(self._inputs)
        self._inputs.clear()
        self._n_bytes = 0
        return taken


def first_nonfinite(model: nn.Module, x: Tensor) -> str:
    """The first parameter, or else the first layer's output in a forward pass, that holds NaN or infinity, in words.

    Args:
        model: In the mode in which it is to be asked; buffers and random states are as before afterwards.
        x: A batch.

    Returns:
        "the weights of 'stem.conv.weight'", "the output of 'stage1.0.conv1'" or "the loss".
    """
    for name, parameter in model.named_parameters():
        if not _is_finite(parameter):
            return f"the weights of {name!r}"
    found: list[str] = []
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    handles = [m.register_forward_hook(_Note(found, n)) for n, m in model.named_modules() if not list(m.children())]
    try:
        with torch.no_grad(), preserved_random_states():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
    return f"the output of {found[0]!r}" if found else "the loss"


def all_finite(model: nn.Module) -> bool:
    """Whether no parameter holds NaN or infinity; one synchronisation."""
    flags = [torch.isfinite(p.detach()).all() for p in model.parameters()]
    return not flags or bool(torch.stack(flags).all())


class _Note:
    """Hook that notes a layer whose output is not finite."""

    def __init__(self, found: list[str], name: str) -> None:
        self.found, self.name = found, name

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self.found and isinstance(output, torch.Tensor) and not _is_finite(output):
            self.found.append(self.name)


def _is_finite(tensor: Tensor) -> bool:
    """Whether every number of a tensor is finite."""
    return bool(torch.isfinite(tensor.detach()).all())
