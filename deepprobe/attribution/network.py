"""The network while it is explained, and which of its layers captum can explain."""

from __future__ import annotations

import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.hooks.attach import attached
from deepprobe.hooks.passes import evaluating, run
from deepprobe.hooks.select import is_weighted, select_layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from deepprobe.hooks.select import LayerSelection
    from deepprobe.records.layer import LayerCall

MAPS = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d)
"""Modules that make three axes mean samples, channels and positions."""

MOST_NAMED = 12
"""Layers that the warning of those left out names."""

TAPS = ("output", "block")
"""Where units are: a layer's output, or a block's after the addition."""


@contextmanager
def explaining(model: nn.Module, *, device: torch.device | str | None = None, seed: int = 0) -> Iterator[nn.Module]:
    """The plain eager model as ``evaluating`` gives it, its in-place modules working out of place; all restored.

    captum puts tensors of its own in the place of a layer's output, which autograd does not let be overwritten.

    Args:
        model: Any module; wrappers are looked through.
        device: Where to run; by default where the model's parameters are.
        seed: Of what the model draws.

    Yields:
        The unwrapped model.
    """
    with evaluating(model, device=device) as network:
        inplace = [module for module in network.modules() if getattr(module, "inplace", False) is True]
        try:
            for module in inplace:
                module.inplace = False  # type: ignore[assignment]
            torch.manual_seed(seed)
            yield network
        finally:
            for module in inplace:
                module.inplace = True  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer whose units are explained.

    Attributes:
        call: Depth, name and class.
        module: The layer.
        axis: Axis of the layer's output on which its units stand; axis 0 is that of the samples.
        shape: Shape of what it gives for one sample.
        dtype: Of what it gives.
        overwritten: Whether the network writes into that afterwards, as ``out += x`` or ``F.relu_`` do.
    """

    call: LayerCall
    module: nn.Module
    axis: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    overwritten: bool = False

    @property
    def n_units(self) -> int:
        """How many units: channels of maps, features of vectors and tokens."""
        return self.shape[self.axis - 1] if self.shape else 1

    def units_first(self, values: Tensor) -> Tensor:
        """A tensor of the shape of the output as (n, units, positions)."""
        if values.ndim == 1:
            return values[:, None, None]
        return values.movedim(self.axis, 1).reshape(len(values), self.n_units, -1)

    def columns(self, n: int) -> dict[str, Any]:
        """What the tidy frame says of where numbers were taken, n samples."""
        call = self.call
        view = "tokens" if self.axis > 1 else "channels"
        return {
            "layer": call.layer, "depth": call.depth, "call": call.call, "tap": call.tap, "view": view,
            "type": call.type, "dtype": str(self.dtype).removeprefix("torch."), "n_rows": n,
            "n_features": self.n_units, "sketched": False,
        }  # fmt: skip


def explained_layers(model: nn.Module, batch: Any, *, n: int, layers: LayerSelection, tap: str) -> list[Layer]:
    """The chosen layers in the order in which they run, found by one forward pass of a batch of n samples.

    A layer that the forward pass does not call is left out. So is, with a warning, one that captum cannot explain,
    where no layers are named: one that is called more than once, or gives something other than one floating-point
    tensor with a row a sample.

    Raises:
        ConfigError: If the tap is none of TAPS, or captum cannot explain a layer that was named, or any.
        UnknownNameError: If ``layers`` matches nothing.
        ShapeError: If the forward pass calls none of the layers.
    """
    if tap not in TAPS:
        raise ConfigError(f"tap={tap!r} has no attributions; there are {' and '.join(map(repr, TAPS))}")
    chosen = select_layers(model, layers, tap=tap)
    found, unfit = _passed(model, batch, n=n, chosen=chosen, tap=tap)
    if unfit and (layers is not None or not found):
        raise _unfit(model, batch, n=n, unfit=unfit)
    if not found:
        raise ShapeError(f"the forward pass gives no floating-point tensor at any of the {len(chosen)} chosen layers")
    if unfit:
        names = [repr(name) for name in unfit]
        shown = ", ".join(names if len(names) <= MOST_NAMED else [*names[:MOST_NAMED], "…"])
        what = f"captum cannot explain {len(unfit)} of {len(unfit) + len(found)} layers, which are left out: {shown}"
        warnings.warn(f"{what}; the first {next(iter(unfit.values()))}", stacklevel=3)
    return list(found.values())


def _passed(
    model: nn.Module, batch: Any, *, n: int, chosen: Mapping[str, nn.Module], tap: str
) -> tuple[dict[str, Layer], dict[str, str]]:
    """Of the chosen layers that a forward pass calls those that captum can explain, and why it cannot the others."""
    found: dict[str, Layer] = {}
    unfit: dict[str, str] = {}
    calls: Counter[str] = Counter()
    given: dict[str, tuple[Tensor, int]] = {}
    maps = any(isinstance(module, MAPS) for module in model.modules())

    def look(call: LayerCall, tensor: Tensor) -> None:
        name = _module_of(call.layer, chosen)
        calls[name] = max(calls[name], call.call)
        if name != call.layer:
            unfit[name] = "gives a container of tensors"
        elif tensor.ndim < 1 or len(tensor) != n:
            unfit[name] = f"gives shape {tuple(tensor.shape)} for {n} samples: its first axis is another"
        else:
            axis = _unit_axis(chosen[name], tensor, maps=maps)
            found[name] = Layer(call, chosen[name], axis, tuple(tensor.shape[1:]), tensor.dtype)
            given[name] = tensor, tensor._version

    with attached(model, chosen, tap=tap, on_tensor=look):
        run(model, batch)
    for name, count in calls.items():
        if count > 1 and name not in unfit:
            unfit[name] = f"is called {count} times in a forward pass, of which captum sees the last alone"
    written = {name for name, (tensor, version) in given.items() if tensor._version != version}
    fit = {name: replace(layer, overwritten=name in written) for name, layer in found.items() if name not in unfit}
    return fit, unfit


def _module_of(place: str, chosen: Mapping[str, nn.Module]) -> str:
    """Name of the chosen module whose output a place is in, such as ``lstm`` of ``lstm[0]``."""
    if place in chosen:
        return place
    name = place.partition("[")[0]
    while name not in chosen:
        name = name.rpartition(".")[0]
    return name


def check_kept(layers: Iterable[Layer]) -> None:
    """ConfigError if a layer's output is overwritten: captum's path and ablation begin from what it was before."""
    for layer in layers:
        if layer.overwritten:
            raise ConfigError(
                f"the network writes into the output of layer {layer.call.layer!r} (as `out += x` or F.relu_ do), and "
                "so captum's integrated gradients and feature ablation would go wrong there: leave it out with "
                "layers=…, write `out = out + x`, or take another method"
            )


def _unfit(model: nn.Module, batch: Any, *, n: int, unfit: Mapping[str, str]) -> ConfigError:
    """The error for layers that captum cannot explain, with layers of this model that it can."""
    name, why = next(iter(unfit.items()))
    weighted = {name: m for name, m in model.named_modules() if is_weighted(m)}
    fit, _ = _passed(model, batch, n=n, chosen=weighted, tap="output")
    pattern = _patterns(list(fit), [name for name, _ in model.named_modules()])
    instead = f"leave it out, as with layers={pattern[:4]}, or " if pattern else ""
    return ConfigError(
        f"layer {name!r} {why}; captum cannot explain that: {instead}give each call a module of its own that gives one "
        "tensor, samples first"
    )


def _patterns(wanted: list[str], every: list[str]) -> list[str]:
    """Globs that take modules wanted and no other: by last name, as ``*.linear1``, where several share it."""
    found = []
    for name in wanted:
        glob = "*." + name.rpartition(".")[2]
        same = {other for other in every if fnmatchcase(other, glob)}
        found.append(glob if len(same) > 1 and same <= set(wanted) else name)
    return list(dict.fromkeys(found))


def _unit_axis(module: nn.Module, output: Tensor, *, maps: bool) -> int:
    """Axis of the units: 1 for vectors and maps, the last one for tokens.

    Of three axes, a module with convolutions gives maps; one without weights what the network has, maps if any.
    """
    if output.ndim != 3:
        return 1
    own = any(isinstance(part, MAPS) for part in module.modules()) or isinstance(module, nn.GroupNorm)
    bare = next(module.parameters(), None) is None
    return 1 if own or (maps and bare) else 2
