"""How large and how certain the gradient of each layer is, from gradients of micro-batches.

The gradient g_i of micro-batch i, of n_i samples, is an estimate of the true gradient G with covariance Σ / n_i, Σ that
of a single sample's gradient (McCandlish et al. 2018, "An empirical model of large-batch training", section 2.2 and
appendix A.1). With N = Σ n_i samples in m micro-batches, for the weights of each layer:

    ḡ           = Σ n_i g_i / N                            the gradient of all samples
    tr Σ        ≈ Σ n_i ‖g_i − ḡ‖² / (m − 1)               unbiased
    noise       = √(tr Σ · m / N)                          what one micro-batch of the mean size is off by
    snr         = ‖ḡ‖ / noise                              about 1/√m where there is nothing but noise
    noise scale = tr Σ / max(‖ḡ‖² − tr Σ / N, 0)           in samples; inf where the gradient is lost in its noise

The sum of squared deviations is Welford's (weighted: West 1979), in float64: no second moment minus product of means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from tqdm.auto import tqdm

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.hooks.kernels import kernels
from deepprobe.hooks.passes import as_batches, device_of, differentiating, moved, n_samples, run
from deepprobe.linalg.precision import wide_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepprobe.hooks.select import LayerSelection

Loss: TypeAlias = Callable[[nn.Module, Any], Tensor]
"""From a model and a batch to the mean loss over its samples."""


def gradient_signal(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss: Loss | None = None,
    micro_batches: int = 8,
    layers: LayerSelection = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Norm, noise and signal-to-noise ratio of the gradient of each kernel, by depth.

    The model runs eagerly as it trains (batch normalisation uses the statistics of each micro-batch, dropout drops),
    without autocast or TF32; modes, buffers, random states and ``.grad`` fields are restored, and no hook is set.

    Args:
        model: Any module; DistributedDataParallel and compiled wrappers are looked through.
        batches: Iterable of (input, target) pairs, or of whatever ``loss`` takes.
        loss: ``loss(model, batch)``, the mean over the samples of a batch. By default cross-entropy of pairs with
            integer targets, or what a dict batch gives as ``model(**batch).loss``.
        micro_batches: Parts, at least 2, into which each batch is cut; sizes differ by at most one sample.
        layers: Which layers, as in ``deepprobe.spectra``.
        device: Where to run; by default where the model is.
        seed: Of what the model draws.
        progress: Show a bar once it takes more than two seconds, on a terminal or in a notebook.

    Returns:
        One row a kernel with ``depth layer tap view n_rows n_features dtype`` (tap ``gradient``, view ``kernel``), the
        float64 numbers ``gradient_norm gradient_noise gradient_snr gradient_noise_scale`` as this module defines them,
        in the unit of loss / weight (the scale in samples), and ``n_micro_batches``. All NaN for a frozen kernel; a
        kernel that the loss does not reach has norm and noise 0 and no ratio.

    Raises:
        ConfigError: If ``micro_batches`` is not a number from 2, ``loss`` does not take (model, batch), or there is no
            loss that fits the batches.
        ShapeError: If there are fewer than two samples, a batch cannot be cut, or the loss is not one number.
        UnknownNameError: If ``layers`` matches nothing, or nothing that has a kernel.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> x, y = torch.randn(64, 3), torch.randint(0, 2, (64,))
        >>> gradient_signal(model, (x, y))[["layer", "tap", "n_rows", "n_micro_batches"]].values.tolist()
        [['', 'gradient', 3, 8]]
    """
    if not isinstance(micro_batches, int) or isinstance(micro_batches, bool) or micro_batches < 2:
        raise ConfigError(f"micro_batches={micro_batches!r}: noise is seen between parts, so name a number from 2 on")
    loss = default_loss if loss is None else checked_loss(loss)
    with differentiating(model, device=device, seed=seed) as network:
        chosen = kernels(network, layers)
        trained = [k.parameter for k in chosen if k.parameter.requires_grad]
        moments = Moments.zeros_like(trained)
        bar = tqdm(desc="gradients", unit="micro-batch", delay=2, leave=False, disable=None if progress else True)
        with bar:
            for part, n in _parts(as_batches(batches, paired=True), micro_batches):
                moments = moments.with_gradients(_gradients(loss, network, moved(part, device_of(network)), trained), n)
                bar.update()
        if moments.n_parts < 2:
            raise ShapeError(f"the batches hold {moments.n_samples} samples; noise is seen between two at least")
        found = iter(moments.read())
    rows = []
    for kernel in chosen:
        norm, squares = next(found) if kernel.parameter.requires_grad else (np.nan, np.nan)
        rows.append(kernel.columns(tap="gradient") | _numbers(norm, squares, moments))
    return pd.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean of gradients and, a number a tensor, the sum of their squared deviations, both weighted by samples.

    Attributes:
        mean: Mean gradients so far, float64 (float32 where the device has no float64).
        squares: Shape (tensors,), ``Σ n_i ‖g_i − ḡ‖²``, on the device.
        n_samples: Samples so far.
        n_parts: Micro-batches so far.
    """

    mean: list[Tensor]
    squares: Tensor
    n_samples: int = 0
    n_parts: int = 0

    @classmethod
    def zeros_like(cls, parameters: list[nn.Parameter]) -> Moments:
        """Nothing seen yet."""
        device = parameters[0].device if parameters else torch.device("cpu")
        dtype = wide_dtype(device)
        mean = [torch.zeros_like(p, dtype=dtype, requires_grad=False) for p in parameters]
        return cls(mean, torch.zeros(len(parameters), dtype=dtype, device=device))

    def with_gradients(self, gradients: list[Tensor | None], n: int) -> Moments:
        """These and one more micro-batch of n samples; ``mean`` is updated in place, nothing leaves the device."""
        total = self.n_samples + n
        if not self.mean:
            return Moments([], self.squares, total, self.n_parts + 1)
        off = [
            -mean if gradient is None else gradient.to(mean.dtype) - mean
            for gradient, mean in zip(gradients, self.mean, strict=True)
        ]
        norms = torch.stack([norm.to(self.squares.device) for norm in torch._foreach_norm(off)])
        torch._foreach_add_(self.mean, off, alpha=n / total)
        return Moments(self.mean, self.squares + norms**2 * (n * self.n_samples / total), total, self.n_parts + 1)

    def read(self) -> NDArray[np.float64]:
        """Norm of the mean and the sum of squared deviations, shape (tensors, 2); the one synchronisation."""
        if not self.mean:
            return np.zeros((0, 2))
        norms = torch.stack([norm.to(self.squares.device) for norm in torch._foreach_norm(self.mean)])
        return torch.stack([norms, self.squares], dim=1).cpu().double().numpy()


def _numbers(norm: float, squares: float, moments: Moments) -> dict[str, float]:
    """The measures of one kernel from its two moments."""
    m, n = moments.n_parts, moments.n_samples
    trace = squares / (m - 1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        noise = np.sqrt(np.float64(trace) * m / n)
        signal = np.maximum(np.float64(norm) ** 2 - trace / n, 0.0)
        return {
            "gradient_norm": float(norm),
            "gradient_noise": float(noise),
            "gradient_snr": float(np.float64(norm) / noise),
            "gradient_noise_scale": float(np.float64(trace) / signal),
            "n_micro_batches": m,
        }


def _gradients(loss: Loss, model: nn.Module, batch: Any, parameters: list[nn.Parameter]) -> list[Tensor | None]:
    """Gradient of each parameter, None where the loss does not reach it; ``.grad`` fields are not touched."""
    value = loss(model, batch)
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(f"loss(model, batch) gave {shape}; expected one number, the mean over the samples")
    if not parameters or not value.requires_grad:
        return [None] * len(parameters)
    found = torch.autograd.grad(value.sum(), parameters, allow_unused=True)
    return [None if g is None else g.to_dense() if g.is_sparse else g for g in found]


def checked_loss(loss: Any) -> Loss:
    """The loss, if it may be one that takes (model, batch).

    Raises:
        ConfigError: If it is a criterion of torch, which takes (output, target), or cannot be called.
    """
    if isinstance(loss, nn.modules.loss._Loss) or getattr(loss, "__module__", "") == "torch.nn.functional":
        name = f"F.{loss.__name__}" if hasattr(loss, "__name__") else f"nn.{type(loss).__name__}()"
        raise ConfigError(
            f"loss={name} takes (output, target); a loss here takes (model, batch): pass "
            f"loss=lambda model, batch: {name}(model(batch[0]), batch[1])"
        )
    if not callable(loss):
        raise ConfigError(f"loss={loss!r} is no function; pass loss=lambda model, batch: …, one number")
    return cast("Loss", loss)


def default_loss(model: nn.Module, batch: Any) -> Tensor:
    """Mean cross-entropy of a pair with integer targets, or the loss that the model itself gives for a dict.

    Raises:
        ConfigError: If the batch is neither, or the output no tensor.
    """
    if isinstance(batch, Mapping):
        output = run(model, batch)
        own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if isinstance(own, Tensor):
            return own
    elif isinstance(batch, tuple) and len(batch) == 2 and isinstance(batch[1], Tensor):
        output = run(model, batch)
        if not isinstance(output, Tensor):
            raise ConfigError(
                f"there is no default loss for a model that returns {type(output).__name__}: it needs a tensor of "
                "logits; pass loss=lambda model, batch: …"
            )
        if not batch[1].is_floating_point():
            return F.cross_entropy(output.float() if output.dtype.itemsize < 4 else output, batch[1].long())
    raise ConfigError(
        "there is no default loss for these batches: it needs pairs (input, integer targets) or a dict for which the "
        "model gives a .loss; pass loss=lambda model, batch: …"
    )


def _parts(batches: Iterable[Any], count: int) -> Iterator[tuple[Any, int]]:
    """Micro-batches and their sizes: each batch in so many parts, or one a sample if it has fewer."""
    for batch in batches:
        n = n_samples(batch)
        size, extra = divmod(n, count)
        start = 0
        for i in range(min(count, n)):
            stop = start + size + (i < extra)
            yield _cut(batch, start, stop, n), stop - start
            start = stop


def _cut(batch: Any, start: int, stop: int, n: int) -> Any:
    """Samples start … stop of a batch of n: of every tensor of that length in its containers."""
    if isinstance(batch, Tensor):
        return batch[start:stop] if batch.ndim and len(batch) == n else batch
    if isinstance(batch, PackedSequence):
        raise ShapeError("a PackedSequence cannot be cut into micro-batches; pad the sequences instead")
    if isinstance(batch, Mapping):
        return {key: _cut(value, start, stop, n) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return tuple(_cut(value, start, stop, n) for value in batch)
    return batch
