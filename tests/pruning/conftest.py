"""One thread, real digits, and a small net with batch normalisation and dropout."""

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


def small_net(seed=0):
    """Convolutional net for 8 × 8 digits, with batch normalisation and dropout: both have states to restore."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(1, 8, 3, stride=2, padding=1),
                bn1=nn.BatchNorm2d(8),
                act1=nn.ReLU(),
                conv2=nn.Conv2d(8, 16, 3, stride=2, padding=1),
                bn2=nn.BatchNorm2d(16),
                act2=nn.ReLU(),
                flat=nn.Flatten(),
                drop=nn.Dropout(0.1),
                classifier=nn.Linear(64, 10),
            )
        )


@pytest.fixture
def net():
    """The function ``small_net``."""
    return small_net


@pytest.fixture(scope="session")
def digits():
    """The digits, normalised: ((images, labels) of 300, the same of 100 others)."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None]
    images = (images - images.mean()) / images.std()
    labels = torch.tensor(data.target, dtype=torch.int64)
    return (images[:300], labels[:300]), (images[300:400], labels[300:400])
