"""What passes through a network in one pass: moments of every layer call, how far samples differ, gradients of outputs.

Everything is reduced inside the hook, in float64, and stays on the device until the pass is over: nothing there waits
for the device.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from deepprobe.diagnosis.roles import BATCH_NORMS, GATES, NORM, unit_axis
from deepprobe.hooks.attach import attached
from deepprobe.linalg.precision import wide_dtype
from deepprobe.probes.saturation import flat_part

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from deepprobe.records.layer import LayerCall

GRAM_SAMPLES = 64
"""Samples, the first of the batch, that are compared with each other."""

MOMENTS = ("mean", "rms", "max_abs", "share_zero", "share_saturated", "share_nonfinite", "n_dead")
BETWEEN = ("cosine", "spread", "effective_rank", "numerical_rank", "sigma_max")
NORM_FACTS = ("values_per_channel", "n_constant_channels", "mean_shift", "scale_shift")


@dataclass
class Watch:
    """Rows of one pass as they come in; ``tables`` reads them once it is over.

    Attributes:
        roles: Role of each watched module.
        modules: The modules.
        n_samples: Length of the batch: other tensors are not rows of samples.
        maps: Whether 3-D tensors are maps of channels.
    """

    roles: Mapping[str, str]
    modules: Mapping[str, nn.Module]
    n_samples: int
    maps: bool
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _moments: list[Tensor] = field(default_factory=list)
    _grams: dict[int, Tensor] = field(default_factory=dict)
    _gradients: dict[int, Tensor] = field(default_factory=dict)
    _norm_rows: list[dict[str, Any]] = field(default_factory=list)
    _norms: list[Tensor] = field(default_factory=list)

    def output(self, call: LayerCall, tensor: Tensor) -> None:
        """Take what a layer call gave; for ``attached``."""
        name, values = self._name(call), tensor.detach()
        module = self.modules[name]
        if not values.numel() or values.ndim == 0:
            return
        place = len(self._rows)
        axis = unit_axis(values, has_1d_convolutions=self.maps)
        self._rows.append(_columns(call, values, axis) | {"role": self.roles[name]})
        self._moments.append(_moments(values, module, axis))
        if values.ndim > 1 and len(values) == self.n_samples:
            self._grams[place] = _gram(values)
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: self._gradient(place, gradient))  # type: ignore[no-untyped-call]

    def _name(self, call: LayerCall) -> str:
        """Name of the module that was called, without the place inside its output."""
        name = call.layer.partition("[")[0]
        while name not in self.modules:
            name = name.rpartition(".")[0]
        return name

    def _gradient(self, place: int, gradient: Tensor) -> None:
        """Norm of the loss's gradient with respect to what a call gave."""
        self._gradients[place] = torch.linalg.vector_norm(gradient.detach(), dtype=wide_dtype(gradient.device))

    def norm_input(self, call: LayerCall, tensor: Tensor) -> None:
        """Take what a normalisation by batch statistics received; for ``attached``."""
        module, values = self.modules[self._name(call)], tensor.detach()
        if isinstance(module, BATCH_NORMS) and values.ndim > 1 and values.numel():
            self._norm_rows.append(_columns(call, values, 1))
            self._norms.append(_norm_facts(values, module))

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """One row a layer call, and one row a call of a batch normalisation; the one synchronisation."""
        layers = pd.DataFrame(self._rows, columns=[*_COLUMNS, "role"])
        layers[list(MOMENTS)] = _numbers(self._moments, len(MOMENTS))
        between = np.full((len(layers), len(BETWEEN)), np.nan)
        for place, gram in self._grams.items():
            between[place] = _between(gram.cpu().double().numpy())
        layers[list(BETWEEN)] = between
        layers["gradient_norm"] = np.nan
        places = list(self._gradients)
        layers.loc[places, "gradient_norm"] = _numbers([self._gradients[p][None] for p in places], 1)[:, 0]
        norms = pd.DataFrame(self._norm_rows, columns=list(_COLUMNS))
        norms[list(NORM_FACTS)] = _numbers(self._norms, len(NORM_FACTS))
        return layers, norms


@contextmanager
def watching(network: nn.Module, roles: Mapping[str, str], n_samples: int) -> Iterator[Watch]:
    """Watch the next forward pass, and the backward pass after it, of an unwrapped model."""
    modules = {name: module for name, module in network.named_modules() if name in roles}
    maps = any(isinstance(m, (nn.Conv1d, nn.BatchNorm1d)) for m in network.modules())
    watch = Watch(roles, modules, n_samples, maps)
    norms = {name: modules[name] for name, role in roles.items() if role == NORM}
    with ExitStack() as stack:
        stack.enter_context(attached(network, modules, tap="output", on_tensor=watch.output))
        if norms:
            stack.enter_context(attached(network, norms, tap="input", on_tensor=watch.norm_input))
        yield watch


_COLUMNS = ("layer", "depth", "call", "tap", "view", "type", "dtype", "n_rows", "n_features", "sketched", "n_units")


def _columns(call: LayerCall, values: Tensor, axis: int) -> dict[str, Any]:
    """What the tidy frame says of where a number was taken, for the view ``samples``."""
    dtype = str(values.dtype).removeprefix("torch.")
    return {
        "layer": call.layer, "depth": call.depth, "call": call.call, "tap": call.tap,
        "view": "samples", "type": call.type, "dtype": dtype, "n_rows": len(values),
        "n_features": values.numel() // len(values), "sketched": False, "n_units": values.shape[axis],
    }  # fmt: skip


def _moments(values: Tensor, module: nn.Module, axis: int) -> Tensor:
    """MOMENTS of a tensor, in float64."""
    wide, n = wide_dtype(values.device), values.numel()
    nan = torch.full((), float("nan"), dtype=wide, device=values.device)
    fired = values != 0
    bounds = flat_part(module)
    flat = None if bounds is None else (values <= bounds[0]) | (values >= bounds[1])
    others = [i for i in range(values.ndim) if i != axis]
    dead = (~(fired.any(dim=others) if others else fired)).sum() if isinstance(module, GATES) else nan
    found = [
        values.mean(dtype=wide),
        torch.linalg.vector_norm(values, dtype=wide) / n**0.5,
        values.abs().amax(),
        1 - fired.mean(dtype=wide),
        nan if flat is None else flat.mean(dtype=wide),
        1 - torch.isfinite(values).mean(dtype=wide),
        dead,
    ]
    return torch.stack([number.to(wide) for number in found])


def _gram(values: Tensor) -> Tensor:
    """Inner products of the first samples, shape (n, n), float64."""
    rows = values[:GRAM_SAMPLES].reshape(min(len(values), GRAM_SAMPLES), -1).to(wide_dtype(values.device))
    return rows @ rows.T


def _between(gram: NDArray[np.float64]) -> tuple[float, ...]:
    """BETWEEN, from the inner products of n samples."""
    n = len(gram)
    energy = np.trace(gram)
    if n < 2 or not np.isfinite(gram).all() or energy <= 0:
        return (np.nan,) * len(BETWEEN)
    norms = np.sqrt(np.diag(gram))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = gram / norms[:, None] / norms[None, :]
    pairs = cosines[~np.eye(n, dtype=bool)]
    known = pairs[np.isfinite(pairs)]
    sigma = np.sqrt(np.maximum(np.linalg.eigvalsh(gram / energy), 0.0))
    shares = sigma[sigma > 0] / sigma.sum()
    return (
        float(known.mean()) if len(known) else np.nan,
        float(np.sqrt(max(1 - gram.mean() / energy * n, 0.0))),
        float(np.exp(-(shares * np.log(shares)).sum())),
        float(np.count_nonzero(sigma > 2.0**-24)),
        float(sigma[-1] * np.sqrt(energy)),
    )


def _norm_facts(values: Tensor, module: nn.Module) -> Tensor:
    """NORM_FACTS of what a batch normalisation receives, float64; NaN shifts where it has no statistics of training."""
    wide = wide_dtype(values.device)
    channels = values.transpose(0, 1).reshape(values.shape[1], -1).to(wide)
    var, mean = torch.var_mean(channels, dim=1, correction=0)
    per_channel = torch.full((), float(channels.shape[1]), dtype=wide, device=values.device)
    constant = (var <= getattr(module, "eps", 0.0)).sum().to(wide)
    seen = getattr(module, "num_batches_tracked", None)
    running_mean, running_var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
    nan = torch.full((), float("nan"), dtype=wide, device=values.device)
    if running_mean is None or running_var is None or seen is None:
        return torch.stack([per_channel, constant, nan, nan])
    eps = getattr(module, "eps", 0.0)
    shift = ((running_mean.to(wide) - mean).abs() / (var + eps).sqrt()).median()
    scale = (((running_var.to(wide) + eps) / (var + eps)).log10().abs() / 2).median()
    unseen = seen == 0
    return torch.stack([per_channel, constant, torch.where(unseen, nan, shift), torch.where(unseen, nan, scale)])


def _numbers(found: list[Tensor], width: int) -> NDArray[np.float64]:
    """Vectors on the device as the rows of an array on the host."""
    if not found:
        return np.zeros((0, width))
    return torch.stack([row.to(found[0].device) for row in found]).cpu().double().numpy()
