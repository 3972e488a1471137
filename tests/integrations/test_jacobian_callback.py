"""Jacobians recorded during training equal those taken by hand, and change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deepprobe.errors import ConfigError
from deepprobe.integrations import JacobianCallback
from deepprobe.probes import gradient_correlation, input_jacobian, jacobian_summary, layer_jacobians
from deepprobe.reports.html import render
from deepprobe.training import TrainConfig, train


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 1).long()


CONFIG = TrainConfig(epochs=2, batch_size=16, lr=0.1, seed=3, device="cpu")


def test_rows_are_those_of_the_calls_and_training_is_unchanged(tmp_path):
    model, bare = network(), network()
    batches = [data()[0][:32]]
    callback = JacobianCallback("at 0,2ep", batches=batches, mode="eval", steps=3, n_samples=5)
    run = train(model, data(), config=CONFIG, callbacks=[callback], out=tmp_path / "run")
    train(bare, data(), config=CONFIG, out=tmp_path / "bare")
    for mine, other in zip(model.state_dict().values(), bare.state_dict().values(), strict=True):
        assert torch.equal(mine, other)
    rows = run.layers()
    rows = rows[rows["step"] == rows["step"].max()].set_index("layer")
    assert rows.index.tolist() == ["", "0", "4"]
    assert set(rows["view"]) == {"jacobian"}
    expected = layer_jacobians(model, batches, mode="eval", steps=3, n_samples=5, seed=3).set_index("layer")
    pairs = gradient_correlation(model, batches, mode="eval", n_samples=5, seed=3).set_index("layer")
    whole = jacobian_summary(input_jacobian(model, batches, n_samples=5))
    for name in ("jacobian_to_output", "jacobian_from_input", "segment_sigma_max"):
        np.testing.assert_allclose(rows[name], expected[name], rtol=1e-6)
    np.testing.assert_allclose(rows["gradient_cosine"], pairs["gradient_cosine"], rtol=1e-6)
    np.testing.assert_allclose(rows.loc["", "jacobian_sigma_max"], whole["sigma_max"], rtol=1e-6)
    np.testing.assert_allclose(rows.loc["", "jacobian_condition_number"], whole["condition_number"], rtol=1e-6)
    assert rows["jacobian_sigma_max"].notna().tolist() == [True, False, False]
    assert "<html" in render(run)


def test_the_default_takes_the_probe_samples_as_the_network_trains(tmp_path):
    run = train(network(), data(), config=CONFIG, callbacks=[JacobianCallback("1ep")], out=tmp_path / "run")
    rows = run.layers()
    assert sorted(rows["step"].unique()) == [0, 4, 8]
    assert set(rows["view"]) == {"jacobian-batch"}
    assert rows["segment_sigma_max"].isna().all() if "segment_sigma_max" in rows else True
    with pytest.raises(ConfigError):
        JacobianCallback("often")
    with pytest.raises(ConfigError, match="from 2 on"):
        JacobianCallback(n_samples=1)
