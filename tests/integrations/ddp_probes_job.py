"""What each process of ``test_ranks.py`` runs: ``torchrun ddp_probes_job.py OUT``."""

from __future__ import annotations

import sys

import torch
from sklearn.datasets import load_digits

from deepprobe.integrations import GradientCallback, InFlightCallback, ProbeCallback, UpdateCallback, WeightCallback
from deepprobe.training import TrainConfig, train

OPTIONS = {"epochs": 1, "batch_size": 50, "lr": 0.05, "validation_share": 0.0}


def network():
    """Without normalisation, whose statistics processes and micro-batches gather in different ways."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(128, 10),
    )  # fmt: skip


def job(out, **options):
    """Train on 187 digits, the last batch uneven, and probe on 33 with all callbacks."""
    torch.set_num_threads(1)
    data = load_digits()
    images, labels = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    callbacks = [
        ProbeCallback("at 0,4it", tap="input", view=["channels"], rows="all"), GradientCallback("at 4it"),
        WeightCallback("at 4it"), UpdateCallback("at 2,4it"), InFlightCallback("at 1,4it", rows="all"),
    ]  # fmt: skip
    config = TrainConfig(**OPTIONS | options)
    return train(
        network(), (images[:187], labels[:187]), test_set=(images[187:220], labels[187:220]), config=config,
        callbacks=callbacks, out=out, quiet=True,
    )  # fmt: skip


if __name__ == "__main__":
    job(sys.argv[1])
