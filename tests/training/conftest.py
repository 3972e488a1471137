"""A small convolutional net, real digits, and one thread."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_net(seed=0, *, dropout=0.1):
    """Convolutional net for 8 × 8 digits, with batch normalisation and dropout: both have states to restore."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(1, 8, 3, padding=1),
                bn1=nn.BatchNorm2d(8),
                act1=nn.ReLU(),
                conv2=nn.Conv2d(8, 16, 3, stride=2, padding=1),
                bn2=nn.BatchNorm2d(16),
                act2=nn.ReLU(),
                flat=nn.Flatten(),
                drop=nn.Dropout(dropout),
                classifier=nn.Linear(256, 10),
            )
        )


@pytest.fixture
def net():
    """The function ``small_net``."""
    return small_net


@pytest.fixture(scope="session")
def digits():
    """The 1,797 digits, normalised: ((images, labels) of 1,437, the same of the other 360)."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None]
    images = (images - images.mean()) / images.std()
    labels = torch.tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:1437], order[1437:]
    return (images[train], labels[train]), (images[test], labels[test])


@pytest.fixture(scope="session")
def few(digits):
    """130 and 40 digits."""
    (x, y), (a, b) = digits
    return (x[:130], y[:130]), (a[:40], b[:40])
