"""Correlation of gradients by depth and along a line, against loops and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.probes import gradient_autocorrelation, gradient_correlation
from deepprobe.probes.shattering import autocorrelation, brown_noise, white_noise


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3))


def loop(model: nn.Sequential, x: torch.Tensor, place: int) -> tuple[float, float, float]:
    """Median norm, mean cosine and mean angle of gradients at one place, output by output, pair by pair."""
    norms, cosines = [], []
    with torch.no_grad():
        h = model[:place](x)
    for j in range(3):
        rows = []
        for one in h:
            leaf = one.clone().requires_grad_()
            model[place:](leaf)[j].backward()
            rows.append(leaf.grad.numpy())
        norms += [np.linalg.norm(g) for g in rows]
        for a in range(len(rows)):
            for b in range(a):
                cosines.append(rows[a] @ rows[b] / np.linalg.norm(rows[a]) / np.linalg.norm(rows[b]))
    return np.median(norms), np.mean(cosines), np.degrees(np.mean(np.arccos(np.clip(cosines, -1, 1))))


def test_norms_cosines_and_angles_equal_a_loop_over_pairs():
    model, x = small().double(), torch.randn(6, 5).double()
    table = gradient_correlation(model, x).set_index("layer")
    assert table["depth"].tolist() == [0, 1, 2, 3]
    for layer, place in (("", 0), ("0", 1), ("2", 3)):
        row = table.loc[layer, ["activation_gradient_norm", "gradient_cosine", "gradient_angle"]].astype(float)
        np.testing.assert_allclose(row, loop(model, x, place), rtol=1e-9)
    np.testing.assert_allclose(table.loc["4", "gradient_cosine"], 1)
    assert table["n_lost"].tolist() == [0] * 4


def test_shortcuts_keep_gradients_together_where_a_plain_network_loses_them():
    class Block(nn.Module):
        def __init__(self, *, shortcut: bool) -> None:
            super().__init__()
            self.lin, self.shortcut = nn.Linear(64, 64, bias=False), shortcut
            nn.init.kaiming_normal_(self.lin.weight)

        def forward(self, x):
            return self.shortcut * x + (0.2 if self.shortcut else 1) * self.lin(torch.relu(x))

    def cosine(*, shortcut: bool) -> float:
        torch.manual_seed(0)
        model = nn.Sequential(*(Block(shortcut=shortcut) for _ in range(12)), nn.Linear(64, 1))
        x = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
        x = x - 0.5 * x.roll(1, 0) - 0.5 * x.roll(2, 0)
        return float(gradient_correlation(model, x)["gradient_cosine"].iloc[0])

    assert cosine(shortcut=True) > cosine(shortcut=False) + 0.15


def test_gradients_without_a_direction_are_counted_and_left_out():
    model, x = small(), torch.randn(4, 5)
    dead = nn.Sequential(nn.ReLU(), nn.Linear(5, 3))
    x[0] = -1
    x[1:] = 1
    found = gradient_correlation(dead, x).set_index("depth").loc[0]
    assert found["n_lost"] == 3  # one sample, three outputs
    np.testing.assert_allclose(found["gradient_cosine"], 1, rtol=1e-6)
    model[4].weight.data *= torch.inf
    assert gradient_correlation(model, x)["gradient_cosine"].iloc[:3].isna().all()


def test_sums_of_many_outputs_and_several_batches():
    model = nn.Linear(4, 30)
    found = gradient_correlation(model, [torch.randn(3, 4), torch.randn(1, 4), torch.randn(5, 4)], n_samples=8)
    np.testing.assert_allclose(found["gradient_cosine"].iloc[0], 1, rtol=1e-6)
    assert found["n_rows"].tolist() == [7, 7]
    with pytest.raises(ShapeError, match=r"^gradients are compared between samples of a batch, and no batch has two$"):
        gradient_correlation(model, [torch.randn(1, 4)] * 3)
    with pytest.raises(ConfigError, match=r"^probes=0 is not a number from 1 on$"):
        gradient_correlation(model, torch.randn(3, 4), probes=0)


def test_autocorrelation_equals_a_double_loop():
    series = np.random.default_rng(0).normal(size=(9, 4)).cumsum(0)
    off = series - series.mean(0)
    expected = [sum(off[t] @ off[t + s] for t in range(9 - s)) / np.sum(off**2) for s in range(9)]
    np.testing.assert_allclose(autocorrelation(series), expected, rtol=1e-12)
    assert np.isnan(autocorrelation(np.ones((5, 2)))).all()
    assert np.isnan(autocorrelation(np.array([[1.0], [np.inf], [2.0]]))).all()


def test_references_are_those_of_simulated_noise():
    rng, n = np.random.default_rng(0), 32
    white = rng.normal(size=(4000, n))
    for expected, series in ((white_noise(n), white), (brown_noise(n), white.cumsum(1))):
        off = series - series.mean(1, keepdims=True)
        sums = np.array([np.mean(np.sum(off[:, : n - s] * off[:, s:], axis=1)) for s in range(n)])
        np.testing.assert_allclose(sums / sums[0], expected, atol=0.02)
    np.testing.assert_allclose(white_noise(n)[1:], -(n - np.arange(1, n)) / (n * (n - 1)), rtol=1e-9)


def test_the_gradient_along_a_line_of_a_cubic_is_a_parabola():
    class Cubic(nn.Module):
        def forward(self, x):
            return (x**3).sum(1, keepdim=True)

    table = gradient_autocorrelation(Cubic(), torch.zeros(2), torch.tensor([1.0, -2.0]), n_points=16)
    t = np.linspace(0, 1, 16)
    expected = autocorrelation(np.stack([3 * t**2, 3 * (2 * t) ** 2], axis=1))
    np.testing.assert_allclose(table["autocorrelation"], expected[:9], rtol=1e-5, atol=1e-6)
    assert table["lag"].tolist() == list(range(9))
    assert table["white_band"][0] == 1.96 / 4


def test_a_line_needs_two_inputs_of_one_shape():
    model = small()
    with pytest.raises(ShapeError, match=r"^start has shape \(5,\) and end \(4,\); a line needs the same$"):
        gradient_autocorrelation(model, torch.zeros(5), torch.zeros(4))
    for settings in ({"n_points": 3}, {"probes": 0}):
        with pytest.raises(ConfigError):
            gradient_autocorrelation(model, torch.zeros(5), torch.ones(5), **settings)
    linear = gradient_autocorrelation(nn.Linear(5, 2), torch.zeros(5), torch.ones(5), n_points=8)
    assert linear["autocorrelation"].isna().all()


def test_outputs_whose_gradient_does_not_change_are_left_out():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.curved, self.straight = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), nn.Linear(3, 1)

        def forward(self, x):
            return torch.cat([self.curved(x), self.straight(x)], dim=1)

    torch.manual_seed(0)
    model, ends = Half(), (torch.zeros(3), torch.ones(3))
    both = gradient_autocorrelation(model, *ends, n_points=8)
    one = gradient_autocorrelation(model.curved, *ends, n_points=8)
    np.testing.assert_allclose(both["autocorrelation"], one["autocorrelation"], rtol=1e-5)
    assert both["n_outputs"].tolist() == one["n_outputs"].tolist() == [1] * 5
    none = gradient_autocorrelation(model.straight, *ends, n_points=8)
    assert none["autocorrelation"].isna().all()
    assert none["n_outputs"].tolist() == [0] * 5
