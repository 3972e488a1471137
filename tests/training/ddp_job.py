"""What each process of the tests of several processes runs: ``torchrun ddp_job.py OUT WHAT``."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits

from deepprobe.records.step import at
from deepprobe.training import TrainConfig, save_checkpoint, train

CONFIG = TrainConfig(epochs=2, batch_size=50, lr=0.05, augmentation="pad-crop", checkpoint_every="100ep")


def small_net():
    """A net with batch normalisation, the same in every process."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(512, 10),
    )  # fmt: skip


def digits():
    """187 digits: batches of 50, 50, 50 and an uneven last one; and 33 to test on."""
    data = load_digits()
    images, labels = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    return (images[:187], labels[:187]), (images[187:220], labels[187:220])


def count_threads(place):
    """How many threads of the process group there are, into a file."""
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    Path(place).write_text(str(sum("gloo" in name for name in names)))


def main(out, what):
    """Train, and be interrupted or die on rank 1 if told so."""
    torch.set_num_threads(1)
    atexit.register(count_threads, f"{out}.threads-{os.environ['RANK']}")  # called last, as it is registered first

    def happen(context):
        if context.ranks.rank == 1 and what == "interrupt":
            os.kill(os.getpid(), signal.SIGTERM)
        if context.ranks.rank == 1 and what == "die":
            raise ValueError("rank 1 dies of this")

    model = small_net()
    train_set, test_set = digits()
    config = TrainConfig(**CONFIG.as_dict() | {"validation_share": 0.0})
    train(model, train_set, test_set=test_set, config=config, callbacks=[at("5it")(happen)], out=out)
    if os.environ["RANK"] == "0":
        save_checkpoint(Path(out).with_suffix(".pt"), model)
    there = train(small_net(), train_set, test_set=test_set, config=config, out=out)
    assert there.status == "complete", "every process knows that the run was there"
    once_more = TrainConfig(**config.as_dict() | {"epochs": 1})
    train(small_net(), train_set, config=once_more, out=f"{out}-again")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
