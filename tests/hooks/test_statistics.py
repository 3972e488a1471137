"""Statistics of a batch are held, whatever drops out in training."""

from __future__ import annotations

import torch
from torch import nn

from deepprobe.hooks.passes import differentiating
from deepprobe.hooks.statistics import batch_statistics


def test_they_are_those_of_the_batch_without_dropout_and_go_again():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3), nn.BatchNorm1d(3).eval())
    x = 5 + torch.randn(64, 3)
    with differentiating(model) as network:
        with batch_statistics(network), torch.no_grad():
            network(x)
        assert not any(module.training for module in network)
        torch.testing.assert_close(network[1].running_mean, x.mean(0))
        assert network[2].running_mean.tolist() == [0, 0, 0]  # frozen
    assert model[1].running_mean.tolist() == [0, 0, 0]
    assert [module.training for module in model] == [True, True, False]
    assert model[1].momentum == 0.1
