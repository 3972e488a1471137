"""Masks: which weights are kept, and what keeps the others at zero while a network trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from deepprobe.errors import ConfigError, RunError, ShapeError
from deepprobe.hooks.select import unwrapped
from deepprobe.pruning.prunable import layer_of, prunable
from deepprobe.runs.masks import read_masks, write_masks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle


class Masks(Mapping[str, "torch.Tensor"]):
    """Which weights of a network are kept: a bool tensor for each prunable parameter. Replaced, never edited.

    Masks are no part of the model: neither its ``state_dict`` nor its forward pass knows of them, so that a pruned
    network is saved, copied, compiled and trained in several processes like any other.

    Args:
        masks: Parameter name, as ``named_parameters`` has it, to a bool tensor of its shape; True is kept.

    Raises:
        ShapeError: If there is none, or one of them is not bool.

    Example:
        >>> net = torch.nn.Linear(4, 2)
        >>> masks = Masks({"weight": torch.tensor([[True, True, False, False]] * 2)})
        >>> masks.apply(net)
        >>> masks.n_kept, masks.density, int(net.weight.count_nonzero())
        (4, 0.5, 4)
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self._masks = dict(masks)
        if not self._masks:
            raise ShapeError("there are no masks: a network has at least one prunable weight")
        for name, mask in self._masks.items():
            if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
                raise ShapeError(
                    f"the mask of {name!r} must be a bool tensor, not {getattr(mask, 'dtype', type(mask))}"
                )
        self._counts: dict[str, int] | None = None

    @classmethod
    def dense(cls, model: nn.Module, *, protect: Sequence[str] = ()) -> Masks:
        """Masks that keep everything.

        Args:
            model: Any module; wrappers are looked through.
            protect: Globs over names of layers that are never pruned, and are not counted.

        Returns:
            Masks over its weight matrices and kernels, on the parameters' devices.

        Raises:
            UnknownNameError: If the model has no such weights, or a glob matches none of them.
            ConfigError: If every layer is protected.
        """
        return cls({name: torch.ones_like(p, dtype=torch.bool) for name, p in prunable(model, protect=protect).items()})

    @classmethod
    def load(cls, path: Path | str, model: nn.Module) -> Masks:
        """Masks from a file of packed bits.

        Args:
            path: Written by ``save``, or a run's ``masks.safetensors``.
            model: The network that they are for; masks go to its parameters' devices.

        Returns:
            The masks.

        Raises:
            RunError: If the file is missing, damaged, or of another network.
        """
        return cls.of_arrays(read_masks(Path(path)), model, origin=str(path))

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[np.bool_]], model: nn.Module, *, origin: str) -> Masks:
        """Masks from bool arrays; RunError if they do not fit the model."""
        own = prunable(model)
        for name, array in arrays.items():
            if name not in own or tuple(own[name].shape) != array.shape:
                there = f"has the shape {tuple(own[name].shape)} there" if name in own else "is no weight there"
                raise RunError(
                    f"the masks of {origin} are not of this {type(model).__name__}: {name!r}, of shape {array.shape}, "
                    f"{there}"
                )
        return cls({name: torch.from_numpy(array.copy()).to(own[name].device) for name, array in arrays.items()})

    def save(self, path: Path | str) -> None:
        """Write one bit a weight, atomically; RunError if that fails."""
        write_masks(Path(path), self.arrays())

    def arrays(self) -> dict[str, NDArray[np.bool_]]:
        """The masks as NumPy arrays."""
        return {name: mask.cpu().numpy() for name, mask in self._masks.items()}

    @property
    def counts(self) -> dict[str, int]:
        """Weights kept of each parameter."""
        if self._counts is None:  # integers: a float32 sum of ones stops at 2²⁴
            self._counts = {name: _count(mask) for name, mask in self._masks.items()}
        return dict(self._counts)

    @property
    def n_weights(self) -> int:
        """Prunable weights."""
        return sum(mask.numel() for mask in self._masks.values())

    @property
    def n_kept(self) -> int:
        """Weights kept."""
        return sum(self.counts.values())

    @property
    def density(self) -> float:
        """Share of the prunable weights that is kept."""
        return self.n_kept / self.n_weights

    def table(self) -> pd.DataFrame:
        """One row a layer: layer, parameter, n_weights, n_kept, density."""
        counts = self.counts
        rows = [
            (layer_of(name), name, mask.numel(), counts[name], counts[name] / max(mask.numel(), 1))
            for name, mask in self._masks.items()
        ]
        return pd.DataFrame(rows, columns=["layer", "parameter", "n_weights", "n_kept", "density"])

    def parameters_of(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that the masks are of; ShapeError if the model does not have them."""
        own = dict(unwrapped(model).named_parameters())
        for name, mask in self._masks.items():
            if name not in own or own[name].shape != mask.shape:
                there = f"of shape {tuple(own[name].shape)}" if name in own else "not there"
                raise ShapeError(
                    f"the masks are not of this {type(model).__name__}: "
                    f"{name!r}, of shape {tuple(mask.shape)}, is {there}"
                )
        return {name: own[name] for name in self._masks}

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set removed weights to zero, in place: the one line after ``optimizer.step()`` of a loop of one's own.

        Raises:
            ShapeError: If the masks are not of this model.
        """
        for name, parameter in self.parameters_of(model).items():
            removed = self._masks[name].to(parameter.device).logical_not()
            # Zeros keep their sign, so that a resumed run has the bits of one that was never stopped.
            parameter.masked_fill_(removed.logical_and_(parameter), 0)

    def attach(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, *, clear: bool = True, freeze: bool = False
    ) -> RemovableHandle:
        """Keep removed weights at zero through every step of an optimizer, until the handle is removed.

        The weights are multiplied by the masks after each step, in one call for all layers. Masking gradients instead
        would not do: momentum and Adam move a weight that has no gradient.

        Args:
            optimizer: Trains the model.
            model: The network, its weights on the device where it trains; removed weights become zero now.
            clear: Whether to set to zero, now, what the optimizer remembers of removed weights.
            freeze: Whether Adam and AdamW may hold removed weights by themselves, where nobody else writes to the
                weights: no product then, which is a twelfth of a step of LeNet-300-100. Their steps are divided by the
                root of a running square, which is made infinite here, and stays so until ``clear``.

        Returns:
            A handle with ``remove()``, which is also a context manager.

        Raises:
            ShapeError: If the masks are not of this model.
            ConfigError: If the optimizer holds none of its masked parameters, as one that was made for another copy.
        """
        parameters = self.parameters_of(model)
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if held.isdisjoint(id(p) for p in parameters.values()):
            raise ConfigError(
                f"the optimizer trains none of the {len(parameters)} masked parameters of this {type(model).__name__}; "
                "make it from the parameters of the model that is pruned"
            )
        self.apply(model)
        if clear:
            self.clear(optimizer, model)
        factors = {name: torch.empty_like(p).copy_(self._masks[name]) for name, p in self._thinned(parameters)}
        weights: list[Tensor] = [parameters[name] for name in factors]
        values = list(factors.values())  # float masks: bool ones leave the fast path and cost four times as much
        frozen: list[Tensor] = []

        def enforce(*_: Any) -> None:
            if not weights or (frozen and [*map(id, frozen)] == [*map(id, _squares(optimizer, weights))]):
                return
            with torch.no_grad():
                torch._foreach_mul_(weights, values)
                if freeze and isinstance(optimizer, torch.optim.Adam):  # AdamW is one; squares are there from now on
                    frozen[:] = _squares(optimizer, weights)
                    for square, value in zip(frozen, values, strict=True):
                        square.masked_fill_(value == 0, torch.inf)

        return optimizer.register_step_post_hook(enforce)

    @torch.no_grad()
    def clear(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        """Set to zero what an optimizer remembers of removed weights: momenta and squares."""
        for name, parameter in self._thinned(self.parameters_of(model)):
            for kept in optimizer.state.get(parameter, {}).values():
                if isinstance(kept, torch.Tensor) and kept.shape == parameter.shape:
                    kept.masked_fill_(~self._masks[name].to(kept.device), 0)

    def _thinned(self, parameters: Mapping[str, nn.Parameter]) -> list[tuple[str, nn.Parameter]]:
        """Those of which something is removed."""
        counts = self.counts
        return [(name, p) for name, p in parameters.items() if counts[name] < p.numel()]

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masks):
            return NotImplemented
        return list(self) == list(other) and all(
            torch.equal(mask.cpu(), other[name].cpu()) for name, mask in self.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Masks({len(self)} layers, {self.n_kept:,} of {self.n_weights:,} weights kept, {self.density:.2%})"


def _count(mask: Tensor) -> int:
    """True entries; NumPy counts bytes five times as fast as torch on a CPU."""
    return int(np.count_nonzero(mask.numpy()) if mask.device.type == "cpu" else torch.count_nonzero(mask))


def _squares(optimizer: torch.optim.Optimizer, weights: Sequence[Tensor]) -> list[Tensor]:
    """Adam's running squares of the gradients of weights; none unless it has all of them."""
    found = [optimizer.state.get(weight, {}).get("exp_avg_sq") for weight in weights]
    return [] if any(square is None for square in found) else found
