"""The deepest trainable network, where the answer by depth is planted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from deepprobe.diagnosis.prediction import FEATURES, calibrate, trainable_depth
from deepprobe.errors import ConfigError


def known():
    """Trains where the loss at initialisation is below ten times that of chance, whatever else."""
    features = pd.DataFrame(np.zeros((40, len(FEATURES))), columns=list(FEATURES))
    features["loss_excess"] = np.linspace(0, 2, 40)
    return calibrate(features, features["loss_excess"] < 1)


def build(factor):
    def of_depth(depth):
        model = nn.Linear(4, 3)
        with torch.no_grad():
            model.weight.fill_(0.0)
            model.bias.copy_(torch.tensor([factor(depth), 0.0, 0.0]))
        return model

    return of_depth


def batch():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2, 1, 2, 1, 2])


def test_the_deepest_is_the_last_of_an_unbroken_run():
    losses = {8: 1.0, 14: 3.0, 20: 200.0, 32: 1.0}
    found = trainable_depth(build(losses.get), batch(), lr=0.1, depths=[20, 8, 32, 14], using=known(), progress=False)
    assert found.table["depth"].tolist() == [8, 14, 20, 32]
    assert found.table["trains"].tolist() == [True, True, False, True]
    assert found.deepest == 14
    assert found.table["loss_excess"].is_monotonic_increasing is False
    assert set(FEATURES) < set(found.table)


def test_the_answer_is_readable():
    losses = {8: 1.0, 14: 3.0, 20: 200.0}
    found = trainable_depth(build(losses.get), batch(), lr=0.1, depths=[20, 8, 14], using=known(), progress=False)
    lines = str(found).splitlines()
    assert lines[0] == (
        "Up to depth 14 it is predicted to train (asked about 8, 14, 20). Do not rely on the depths that lie outside "
        "what it was calibrated on."
    )
    assert lines[2].split() == ["depth", "probability", "trains", "outside", "the", "calibration"]
    assert [line.split()[2] for line in lines[3:]] == ["yes", "yes", "no"]
    assert "descent" in found.table["outside"].iloc[0]  # the planted calibration has every other feature at zero
    assert "<td>20</td>" in found._repr_html_()


def test_where_none_trains_there_is_no_deepest():
    found = trainable_depth(build(lambda depth: 300.0), batch(), lr=0.1, depths=[8, 14], using=known(), progress=False)
    assert found.deepest is None


def test_no_depth_is_refused():
    with pytest.raises(ConfigError, match="depths is empty"):
        trainable_depth(build(float), batch(), lr=0.1, depths=[])
