"""What one batch tells, before training, about whether training with a learning rate will work: seven numbers.

All but the last are decimal logarithms, so that they add up and compare across networks. SGD with momentum μ moves in
the long run by lr / (1 − μ) times the gradient (Polyak 1964), which is the *step* below. With L the loss, g its
gradient with respect to all trained parameters, W a kernel (not biases or scales):

    update_median     median over kernels of step ‖∂L/∂W‖ / ‖W‖: how fast a typical layer turns over
    descent           step ‖g‖² / L: share of the loss that a step would remove if the loss were a plane
    trial             L(θ − step g) / L(θ): what one such step really does to the loss of the same batch
    loss_excess       L / ln(classes): 0 where the network answers like chance
    scores_spread     share of ‖scores‖_F that differs between samples: whether inputs are still told apart at the end
    gradient_growth   change of the gradient's norm a layer, from the last layer's output to the first's, in dex
    normalised        share of layers whose output goes straight into a normalisation, 0 … 1

Growth of the gradient, and samples that are no longer told apart: Schoenholz et al. (2017), "Deep information
propagation", sections 3 and 4; the latter also Daneshmand et al. (2020). That a step on the batch itself says more than
its plane is the idea of trust regions. A normalisation makes the loss blind to the scale of the kernel before it, so
that a step too large does not stay one (van Laarhoven 2017).
"""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from deepprobe.diagnosis.prediction.labels import check_labels, labels_in_range
from deepprobe.diagnosis.prediction.limits import Setting, setting_of
from deepprobe.diagnosis.roles import NORM, WEIGHTED, roles
from deepprobe.diagnosis.watching import watching
from deepprobe.errors import ConfigError, ShapeError
from deepprobe.hooks.kernels import kernels
from deepprobe.hooks.passes import as_batches, device_of, differentiating, moved, n_samples
from deepprobe.linalg.precision import wide_dtype
from deepprobe.probes.gradients import default_loss

if TYPE_CHECKING:
    import pandas as pd

    from deepprobe.probes.gradients import Loss

FEATURES = (
    "update_median", "descent", "trial", "loss_excess", "scores_spread", "gradient_growth", "normalised",
)  # fmt: skip

MOST = 8.0
"""Dex: features stay within ± this; what is not finite or zero is that far out."""


def initial_features(
    model: nn.Module,
    batch: Any,
    *,
    lr: float,
    momentum: float = 0.9,
    loss: Loss | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """FEATURES of a network and a learning rate, from one forward and backward pass and one more forward pass.

    The model runs as it trains (batch statistics, dropout) and is left as it was: weights, modes, buffers, ``.grad``
    fields and random states.

    Args:
        model: Any classifier; wrappers are looked through.
        batch: One batch (inputs, integer labels), a dict for which the model gives a ``.loss``, or what ``loss`` takes;
            the first, if there are several.
        lr: Learning rate of SGD, positive.
        momentum: Its momentum μ, from 0 to below 1.
        loss: ``loss(model, batch)``, the mean over samples; by default cross-entropy, or a dict model's own.
        device: Where to run; by default where the model is.
        seed: Of what the model draws.

    Returns:
        Each feature, those in dex within ±8.

    Raises:
        ConfigError: If lr or momentum is out of range, the batch has no integer labels or such that the model has no
            score for, nothing is trained, or there is no loss that fits the batch.
        ShapeError: If there are fewer than two samples.
        UnknownNameError: If no layer has a kernel.
    """
    return measured(model, batch, lr=lr, momentum=momentum, loss=loss, device=device, seed=seed)[0]


def measured(
    model: nn.Module,
    batch: Any,
    *,
    lr: float,
    momentum: float,
    loss: Loss | None,
    device: torch.device | str | None,
    seed: int,
) -> tuple[dict[str, float], Setting]:
    """FEATURES as ``initial_features`` gives them, and what they do not show of the network and the batch."""
    step = _step(lr, momentum)
    batch = _first(batch)
    check_labels(batch)
    with differentiating(model, device=device, seed=seed) as network:
        batch = moved(batch, device_of(network))
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        if not trained:
            raise ConfigError("no parameter of the model is trained (requires_grad); there is nothing to predict")
        watched = {name: role for name, role in roles(network).items() if role in {WEIGHTED, NORM}}
        with watching(network, watched, n_samples(batch)) as watch, labels_in_range(network, batch, loss):
            value = (loss or default_loss)(network, batch)
            found = torch.autograd.grad(value, list(trained.values()), allow_unused=True)
        gradients = {
            name: torch.zeros_like(p) if g is None else g.to_dense()
            for (name, p), g in zip(trained.items(), found, strict=True)
        }
        before = float(value.detach())
        after = _loss_after(_Loss(network, loss or default_loss), batch, trained, gradients, step=step, seed=seed)
        updates = _updates(network, trained, gradients, step=step)
        layers = watch.tables()[0]
        setting = setting_of(network, n_classes=_n_classes(layers), batch_size=n_samples(batch), momentum=momentum)
    squares = sum(float(_norm(g)) ** 2 for g in gradients.values())
    features = {
        "update_median": dex(float(updates.median())),
        "descent": dex(step * squares, before),
        "trial": dex(after, before),
        **_by_depth(layers, before),
    }
    return features, setting


def dex(value: float, reference: float = 1.0) -> float:
    """log10(value / reference) within ±MOST; −MOST of zero, +MOST of what is not finite or has no finite reference."""
    if not (math.isfinite(value) and math.isfinite(reference)):
        return MOST
    if value <= 0:
        return -MOST
    if reference <= 0:
        return MOST
    return min(max(math.log10(value) - math.log10(reference), -MOST), MOST)


def _step(lr: float, momentum: float) -> float:
    """The step lr / (1 − momentum), checked."""
    if not (_is_number(lr) and math.isfinite(lr) and lr > 0):
        raise ConfigError(f"lr={lr!r}: a learning rate is a positive number")
    if not (_is_number(momentum) and 0 <= momentum < 1):
        raise ConfigError(f"momentum={momentum!r}: must be from 0 to below 1")
    return lr / (1 - momentum)


def _is_number(value: object) -> bool:
    """Whether a value is a real number, and neither text nor a truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _first(batch: Any) -> Any:
    """The first batch of several, or the one given; of two samples at least."""
    first = next(iter(as_batches(batch, paired=True)), None)
    if first is None or n_samples(first) < 2:
        raise ShapeError("batch holds fewer than two samples; a prediction compares samples with each other")
    return first


class _Loss(nn.Module):
    """The loss as a module, so that it can be called with other parameters than the network's own."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, batch: Any) -> Tensor:
        return self.loss(self.network, batch)


def _loss_after(
    loss: _Loss,
    batch: Any,
    trained: dict[str, nn.Parameter],
    gradients: dict[str, Tensor],
    *,
    step: float,
    seed: int,
) -> float:
    """Loss on the batch with the parameters moved by −step times their gradients; the network keeps its own."""
    torch.manual_seed(seed)
    with torch.no_grad():
        there = {f"network.{name}": p - step * gradients[name] for name, p in trained.items()}
        return float(functional_call(loss, there, (batch,)))


def _updates(
    network: nn.Module, trained: dict[str, nn.Parameter], gradients: dict[str, Tensor], *, step: float
) -> Tensor:
    """Update over weight of each trained kernel, or parameter where there is none; shape (kernels,), float64."""
    names = {id(p): name for name, p in trained.items()}
    chosen = [names[id(k.parameter)] for k in kernels(network) if id(k.parameter) in names] or list(trained)
    ratios = [step * _norm(gradients[name]) / _norm(trained[name].detach()) for name in chosen]
    return torch.stack([ratio.cpu().double() for ratio in ratios]).nan_to_num(nan=math.inf, posinf=math.inf)


def _norm(tensor: Tensor) -> Tensor:
    """Frobenius norm, in float64 where the device has it."""
    wide = wide_dtype(tensor.device)
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=wide)
    return norm


def _by_depth(table: pd.DataFrame, loss: float) -> dict[str, float]:
    """The features that come from the outputs of layers, in the order in which these ran."""
    weighted = table["role"] == WEIGHTED
    layers = table[weighted]
    first, last = layers.iloc[0], layers.iloc[-1]
    growth = dex(float(first["gradient_norm"]), float(last["gradient_norm"])) / max(len(layers) - 1, 1)
    return {
        "loss_excess": dex(loss, math.log(max(_n_classes(table), 2))),
        "scores_spread": -MOST if math.isnan(last["spread"]) else dex(float(last["spread"])),
        "gradient_growth": growth,
        "normalised": float((table["role"].shift(-1) == NORM)[weighted].mean()),
    }


def _n_classes(table: pd.DataFrame) -> int:
    """Units of the last layer with weights that ran."""
    return int(table.loc[table["role"] == WEIGHTED, "n_units"].iloc[-1])
