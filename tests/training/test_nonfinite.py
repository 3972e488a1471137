"""Where NaN first stands."""

from __future__ import annotations

import torch
from torch import nn

from deepprobe.training.nonfinite import RecentInputs, all_finite, first_nonfinite


class Blow(nn.Module):
    """Layer that overflows."""

    def forward(self, x):
        return x * 1e38 * 1e38


def test_the_first_parameter_that_is_not_finite_is_named(net, few):
    model = net()
    assert all_finite(model)
    with torch.no_grad():
        model.conv2.bias[3] = float("inf")
        model.classifier.weight[0, 0] = float("nan")
    assert not all_finite(model)
    assert first_nonfinite(model, few[0][0]) == "the weights of 'conv2.bias'"


def test_the_first_output_is_named_and_nothing_is_left_behind(few):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), Blow(), nn.Dropout(), nn.Linear(4, 2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    assert first_nonfinite(model, few[0][0]) == "the output of '3'"
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks for m in model.modules())


def test_a_sound_network_leaves_the_loss(net, few):
    assert first_nonfinite(net(), few[0][0]) == "the loss"
    assert all_finite(nn.Identity())


def test_recent_inputs_stay_within_their_share_of_memory(monkeypatch):
    monkeypatch.setattr("deepprobe.training.nonfinite.MOST_BYTES_KEPT", 100)
    recent = RecentInputs()
    for i in range(9):
        recent.add(torch.full((10,), float(i)))  # 40 bytes
    assert [x[0].item() for x in recent.taken()] == [7, 8]
    assert recent.taken() == []
    recent.add(torch.zeros(1000))  # one is kept in any case
    assert len(recent.taken()) == 1
