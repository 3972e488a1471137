"""Sick and healthy networks, each with the batches it is given, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from deepprobe.diagnosis import Evidence, gather

LR = 0.05


def data(n: int = 64) -> tuple[Tensor, Tensor]:
    """Gaussian vectors in four classes told apart by a random linear map."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 16, generator=generator)
    return x, (x @ torch.randn(16, 4, generator=generator)).argmax(1)


def healthy() -> nn.Sequential:
    """Three normalised layers and a small head."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for width in (16, 32, 32):
        layers += [nn.Linear(width, 32), nn.BatchNorm1d(32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, 4))


def chain(depth: int, *, gain: float, bias: float = 0.0, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Plain layers of He's scale times a gain."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(depth):
        layer = nn.Linear(16 if i == 0 else 32, 32)
        nn.init.normal_(layer.weight, 0.0, gain * (2 / layer.in_features) ** 0.5)
        nn.init.constant_(layer.bias, bias)
        layers += [layer, act()]
    return nn.Sequential(*layers, nn.Linear(32, 4))


def normalised_chain(depth: int) -> nn.Sequential:
    """Batch normalisation and no shortcut."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(16 if i == 0 else 32, 32), nn.BatchNorm1d(32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, 4))


@torch.no_grad()
def changed(change: Callable[[nn.Sequential], object]) -> nn.Sequential:
    """The healthy network after a change."""
    model = healthy()
    change(model)
    return model


def _rank_one(model: nn.Sequential) -> None:
    for layer in model:
        if isinstance(layer, nn.Linear):
            layer.weight.copy_(layer.weight[:, :1].abs() @ layer.weight[:1].abs())
            layer.bias.zero_()


def _lost_digits(model: nn.Sequential) -> None:
    """Adds ten million and takes it off again, where float32 keeps seven digits."""
    for place, shift in ((2, 1e7), (4, -1e7)):
        model[place].weight.copy_(torch.eye(32))
        model[place].bias.fill_(shift)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = healthy(), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def frozen() -> nn.Sequential:
    """The healthy network, as a feature extractor whose head was frozen too."""
    return healthy().requires_grad_(False)


class Bottleneck(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
        self.head = nn.Linear(1, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


class Residual(nn.Module):
    """A block around a narrow layer."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Linear(16, 1), nn.Linear(1, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.wide(torch.relu(self.narrow(x)))


def _far_statistics(model: nn.Sequential) -> None:
    for layer in model:
        if isinstance(layer, nn.BatchNorm1d):
            layer.num_batches_tracked.fill_(100)
            layer.running_mean.fill_(10.0)


def _settled_statistics(model: nn.Sequential) -> None:
    for layer in model:
        if isinstance(layer, nn.BatchNorm1d):
            layer.momentum = 1.0
    model(data()[0])


def _with(**changes: Tensor | float) -> tuple[Tensor, Tensor]:
    """Data with one column (its number after an underscore) set to a value."""
    x, y = data()
    for name, value in changes.items():
        x[:, int(name.removeprefix("column_"))] = value
    return x, y


def _nan() -> tuple[Tensor, Tensor]:
    x, y = data()
    x[3, 5] = float("nan")
    return x, y


def _twice() -> tuple[Tensor, Tensor]:
    x, y = data()
    return torch.cat([x, x]), torch.cat([y, (y + 1) % 4])


def _rare() -> tuple[Tensor, Tensor]:
    x, _ = data(200)
    y = torch.zeros(200, dtype=torch.long)
    y[:3] = 1
    return x, y


ZOO: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, Tensor], float]]] = {
    "healthy": lambda: (healthy(), data(), LR),
    "plain": lambda: (chain(3, gain=1.0), data(), LR),
    "growing": lambda: (chain(12, gain=3.0), data(), LR),
    "shrinking": lambda: (chain(12, gain=0.3), data(), LR),
    "alike": lambda: (chain(12, gain=0.3, bias=1.0), data(), LR),
    "rank one": lambda: (changed(_rank_one), data(), LR),
    "infinite": lambda: (changed(lambda m: m[3].weight[0, 0].fill_(float("inf"))), data(), LR),
    "lost digits": lambda: (changed_chain(_lost_digits), data(), LR),
    "shattered": lambda: (normalised_chain(30), data(), LR),
    "unused": lambda: (Unused(), data(), LR),
    "dead": lambda: (changed(lambda m: m[4].bias[:8].fill_(-100.0)), data(), LR),
    "saturated": lambda: (chain(3, gain=50.0, act=nn.Tanh), data(), LR),
    "tanh": lambda: (chain(3, gain=0.7, act=nn.Tanh), data(), LR),
    "identical": lambda: (changed(lambda m: m[3].weight.fill_(0.1)), data(), LR),
    "bottleneck": lambda: (Bottleneck(), data(), LR),
    "residual": lambda: (nn.Sequential(Residual(), Residual(), nn.Linear(16, 4)), data(), LR),
    "few samples": lambda: (healthy(), data(6), LR),
    "no variance": lambda: (changed(lambda m: m[3].weight[:8].zero_()), data(), LR),
    "far statistics": lambda: (changed(_far_statistics), data(), LR),
    "settled statistics": lambda: (changed(_settled_statistics), data(), LR),
    "frozen": lambda: (frozen(), data(), LR),
    "probabilities": lambda: (nn.Sequential(healthy(), nn.Softmax(dim=1)), data(), LR),
    "sure": lambda: (changed(lambda m: m[-1].weight.mul_(100.0)), data(), LR),
    "too fast": lambda: (healthy(), data(), 1e3),
    "too slow": lambda: (healthy(), data(), 1e-8),
    "constant column": lambda: (healthy(), _with(column_3=1.0), LR),
    "bytes": lambda: (healthy(), (data()[0] * 60 + 128, data()[1]), LR),
    "one wide column": lambda: (healthy(), _with(column_0=data()[0][:, 0] * 1e4), LR),
    "NaN": lambda: (healthy(), _nan(), LR),
    "one class": lambda: (healthy(), (data()[0], torch.zeros(64, dtype=torch.long)), LR),
    "rare class": lambda: (healthy(), _rare(), LR),
    "contradicting": lambda: (healthy(), _twice(), LR),
}


@torch.no_grad()
def changed_chain(change: Callable[[nn.Sequential], object]) -> nn.Sequential:
    """A healthy plain network after a change."""
    model = chain(4, gain=1.0, act=nn.Identity)
    change(model)
    return model


CASES: dict[str, tuple[str, str]] = {
    "nonfinite-values": ("infinite", "healthy"),
    "signal-explodes": ("growing", "plain"),
    "signal-dies": ("shrinking", "plain"),
    "samples-indistinguishable": ("alike", "plain"),
    "rank-collapse": ("rank one", "healthy"),
    "precision-horizon": ("lost digits", "plain"),
    "gradients-explode": ("growing", "plain"),
    "gradients-vanish": ("shrinking", "plain"),
    "gradients-shattered": ("shattered", "healthy"),
    "jacobian-explodes": ("growing", "plain"),
    "jacobian-vanishes": ("shrinking", "plain"),
    "unreached-parameters": ("unused", "healthy"),
    "all-parameters-frozen": ("frozen", "healthy"),
    "dead-units": ("dead", "healthy"),
    "saturated-units": ("saturated", "tanh"),
    "identical-units": ("identical", "healthy"),
    "structural-bottleneck": ("bottleneck", "residual"),
    "normalisation-missing": ("shrinking", "healthy"),
    "mis-scaled-initialisation": ("shrinking", "plain"),
    "batch-too-small": ("few samples", "healthy"),
    "channels-without-variance": ("no variance", "healthy"),
    "running-statistics-off": ("far statistics", "settled statistics"),
    "constant-predictions": ("alike", "healthy"),
    "softmax-twice": ("probabilities", "healthy"),
    "loss-above-chance": ("sure", "healthy"),
    "update-too-large": ("too fast", "healthy"),
    "update-too-small": ("too slow", "healthy"),
    "constant-inputs": ("constant column", "healthy"),
    "inputs-not-scaled": ("bytes", "healthy"),
    "input-scales-differ": ("one wide column", "healthy"),
    "nonfinite-inputs": ("NaN", "healthy"),
    "single-class": ("one class", "healthy"),
    "class-imbalance": ("rare class", "healthy"),
    "contradicting-labels": ("contradicting", "healthy"),
}
"""Of every rule a network in which it must find something, and one in which it must not."""


@cache
def evidence_of(name: str) -> Evidence:
    """Evidence of a network of ZOO, gathered once."""
    model, batch, lr = ZOO[name]()
    return gather(model, batch, lr=lr, progress=False)
