"""Removed weights in trainings whose callbacks write to weights themselves."""

from __future__ import annotations

import torch

from deepprobe.pruning import LotteryConfig, run_lottery
from deepprobe.records.step import at
from deepprobe.training import TrainConfig, load_checkpoint


class Noise:
    """Adds to every weight, two updates before the end."""

    schedule = at("4it").schedule

    def __call__(self, context):
        with torch.no_grad():
            for parameter in context.model.parameters():
                parameter.add_(0.01)


def test_what_a_callback_writes_to_removed_weights_does_not_stay(net, digits, tmp_path):
    training = TrainConfig(epochs=1, batch_size=50, lr=0.01, optimizer="adam", validation_share=0.0, device="cpu")
    config = LotteryConfig(training=training, rounds=1, prune=0.5, probe_samples=0)
    found = run_lottery(net(), digits, config, out=tmp_path / "e", callbacks=[Noise()], quiet=True)
    (checkpoint,) = (found.path / "seed0-round01-ticket" / "checkpoints").iterdir()
    weights = load_checkpoint(checkpoint).weights
    for name, mask in found.masks("seed0-round01-ticket").items():
        assert not weights[name][~torch.from_numpy(mask)].count_nonzero()
