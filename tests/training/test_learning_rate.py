"""Schedules against torch's own schedulers and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from deepprobe.training import TrainConfig
from deepprobe.training.learning_rate import learning_rate

PER_EPOCH = 7


def rates(config):
    return [learning_rate(config, i, iterations_per_epoch=PER_EPOCH) for i in range(config.epochs * PER_EPOCH)]


@pytest.mark.parametrize("epochs", [1, 2, 5, 30])
def test_one_cycle_is_that_of_torch(epochs):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.3, total_steps=epochs * PER_EPOCH, cycle_momentum=False
    )
    expected = []
    for _ in range(epochs * PER_EPOCH):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(expected) < epochs * PER_EPOCH:
            scheduler.step()
    assert rates(TrainConfig(epochs=epochs, lr=0.3)) == pytest.approx(expected, rel=1e-12)


def test_cosine_is_half_a_cosine():
    expected = [0.1 * (1 + math.cos(math.pi * i / 28)) / 2 for i in range(28)]
    assert rates(TrainConfig(epochs=4, lr=0.1, schedule="cosine")) == pytest.approx(expected, rel=1e-15)


def test_step_drops_at_the_milestones():
    found = rates(TrainConfig(epochs=4, lr=1.0, schedule="step", milestones=(0.25, 0.5), step_factor=0.1))
    assert found == pytest.approx([1.0] * 7 + [0.1] * 7 + [0.01] * 14)


def test_constant_is_constant():
    assert set(rates(TrainConfig(epochs=2, lr=0.5, schedule="constant"))) == {0.5}


def test_warm_up_rises_linearly_and_reaches_the_rate():
    found = rates(TrainConfig(epochs=4, lr=1.0, schedule="constant", warmup_epochs=2.0))
    assert found == pytest.approx([min(1.0, (i + 1) / 14) for i in range(28)])


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "one-cycle"])
def test_a_training_of_one_update_has_a_rate(schedule):
    rate = learning_rate(TrainConfig(epochs=1, schedule=schedule), 0, iterations_per_epoch=1)
    assert 0 < rate <= 0.02
