"""Streams with exactly known spectra, and small awkward models."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import hadamard
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def known_spectrum(n: int, sigma: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """An n × d matrix with these singular values to a few u: rows of Hadamard matrices rotate without rounding."""
    d = len(sigma)
    left = orthonormal(n, seed)[:, :d]
    right = orthonormal(d, seed + 1)
    return (left * sigma) @ right.T


def orthonormal(n: int, seed: int) -> np.ndarray:
    """Orthogonal n × n matrix with entries ±1/√n, n a power of two: exact up to the one scaling."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], n)
    return hadamard(n)[rng.permutation(n)] * signs / np.sqrt(n)


def blocks_of(rows: np.ndarray, cuts: list[int] | None = None) -> list[np.ndarray]:
    """Rows as blocks of shape (1, d, ·), cut at the given places."""
    return [part.T[None] for part in np.split(rows, cuts or [])]


class InPlace(nn.Module):
    """An in-place activation overwrites what a kept reference would show."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x)).mean((2, 3)))


class CalledTwice(nn.Module):
    """One module, two calls."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(6, 6)
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.lin(self.act(self.lin(x))))


class TupleOut(nn.Module):
    """LSTM: a tuple inside a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class _DictLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.lin(x)
        return {"plain": y, "squared": y**2}


class DictOut(nn.Module):
    """A layer that gives a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = _DictLayer()

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)
        return out["plain"] + out["squared"]


@dataclass
class Hidden:
    hidden: Tensor
    index: Tensor


class _DataclassLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Hidden:
        return Hidden(self.lin(x), torch.arange(3))


class DataclassOut(nn.Module):
    """A layer that gives a dataclass, one field of it integer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = _DataclassLayer()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).hidden


class Checkpointed(nn.Module):
    """Activation checkpointing runs a block again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.block, x, use_reentrant=False))


class Shared(nn.Module):
    """Two layers share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


class ListOfSequentials(nn.Module):
    """nn.Sequential inside nn.ModuleList."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return x


class DictIn(nn.Module):
    """Takes keyword arguments, as Hugging Face models do."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(6, 3)

    def forward(self, values: Tensor, scale: Tensor | None = None) -> Tensor:
        return self.lin(values if scale is None else values * scale)


class Residual(nn.Module):
    """A block for the tap ``block``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x)) + x


def small_residual_net() -> nn.Module:
    """Stem, two blocks, classifier."""
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 4, 3, padding=1),
            blocks=nn.Sequential(Residual(4), Residual(4)),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(4, 2),
        )
    )
