"""Evidence against independent float64 references, on awkward models, and without a trace."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import ailing
import numpy as np
import pytest
import scipy.linalg
import torch
import toys
from torch import Tensor, nn
from torch.nn import functional as F

from deepprobe.diagnosis import gather
from deepprobe.diagnosis.evidence import PASSES
from deepprobe.errors import ConfigError, DeepprobeError, ShapeError, UnknownNameError


def test_moments_and_ranks_of_layers_equal_a_float64_reference() -> None:
    model, (x, y) = ailing.chain(3, gain=1.0), ailing.data()
    found = gather(model, (x, y), progress=False).layers.set_index("layer")
    twin = ailing.chain(3, gain=1.0).double()
    h = twin[:4](x.double()).detach().numpy()
    row = found.loc["3"]
    assert row["rms"] == pytest.approx(np.sqrt((h**2).mean()), rel=1e-6)
    assert row["mean"] == pytest.approx(h.mean(), rel=1e-6)
    assert row["share_zero"] == pytest.approx((h == 0).mean())
    assert row["n_dead"] == (h == 0).all(0).sum()
    sigma = scipy.linalg.svdvals(h)
    p = sigma[sigma > 0] / sigma.sum()
    assert row["effective_rank"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-4)
    assert row["sigma_max"] == pytest.approx(sigma[0], rel=1e-6)
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[~np.eye(64, dtype=bool)]
    assert row["cosine"] == pytest.approx(cosines.mean(), rel=1e-6)
    assert row["spread"] == pytest.approx(np.linalg.norm(h - h.mean(0)) / np.linalg.norm(h), rel=1e-6)


def test_gradients_of_outputs_and_kernels_equal_autograd() -> None:
    model, (x, y) = ailing.chain(3, gain=1.0), ailing.data()
    found = gather(model, (x, y), lr=0.5, progress=False)
    twin = ailing.chain(3, gain=1.0).double()
    hidden = twin[:2](x.double())
    loss = F.cross_entropy(twin[2:](hidden), y)
    by_output, by_weight = torch.autograd.grad(loss, [hidden, twin[2].weight])
    layers, kernels = found.layers.set_index("layer"), found.kernels.set_index("layer")
    assert layers.loc["1", "gradient_norm"] == pytest.approx(float(by_output.norm()), rel=1e-4)
    assert kernels.loc["2", "gradient_norm"] == pytest.approx(float(by_weight.norm()), rel=1e-4)
    ratio = 0.5 * float(by_weight.norm() / twin[2].weight.detach().norm())
    assert kernels.loc["2", "update_ratio"] == pytest.approx(ratio, rel=1e-4)
    assert found.outputs is not None
    assert found.outputs.loss == pytest.approx(float(loss.detach()), rel=1e-5)


def test_gains_are_those_of_he_and_glorot() -> None:
    layer = nn.Conv2d(8, 32, 3, groups=2)
    nn.init.constant_(layer.weight, 0.5)
    model = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))
    row = gather(model, (torch.randn(8, 8, 6, 6), torch.arange(8) % 3), progress=False).kernels.iloc[0]
    assert (row["fan_in"], row["fan_out"]) == (36, 144)
    assert row["he_gain"] == pytest.approx(0.5 * np.sqrt(36 / 2))
    assert row["glorot_gain"] == pytest.approx(0.5 * np.sqrt((36 + 144) / 2))
    assert row["n_twin_units"] == 31


def test_batch_statistics_are_compared_with_the_running_ones() -> None:
    model, (x, y) = ailing.healthy(), ailing.data()
    with torch.no_grad():
        h = model[0](x)
        model[1].running_mean.copy_(h.mean(0) + 3 * h.std(0, correction=0))
        model[1].running_var.copy_(100 * h.var(0, correction=0))
        model[1].num_batches_tracked.fill_(1)
    row = gather(model, (x, y), progress=False).norms.iloc[0]
    assert row["values_per_channel"] == 64
    assert row["mean_shift"] == pytest.approx(3, rel=1e-3)
    assert row["scale_shift"] == pytest.approx(1, rel=1e-3)


def test_of_a_linear_network_jacobian_and_gradient_are_its_matrix() -> None:
    model, (x, y) = nn.Linear(16, 4), ailing.data()
    found = gather(model, (x, y), progress=False)
    sigma = scipy.linalg.svdvals(model.weight.detach().double().numpy())
    assert found.jacobian is not None
    assert found.jacobian.sigma_max == pytest.approx(sigma[0], rel=1e-5)
    assert found.jacobian.sigma_min == pytest.approx(sigma[-1], rel=1e-5)
    assert found.jacobian.frobenius == pytest.approx(np.linalg.norm(sigma), rel=1e-5)
    assert found.gradient_correlation == pytest.approx(1.0)
    assert found.gradient_correlation_noise == pytest.approx((16 * 32) ** -0.5)


def test_neighbouring_gradients_are_those_of_autograd() -> None:
    model, (x, y) = ailing.chain(2, gain=1.0), ailing.data()
    twin = ailing.chain(2, gain=1.0).double()
    cosines = []
    for i, t in enumerate(np.linspace(0, 31 / 32, 32)):
        rows = [
            torch.autograd.functional.jacobian(lambda p: twin(p)[0], (x[i] + s * (x[32 + i] - x[i])).double())
            for s in (t, t + 1 / 32)
        ]
        cosines.append(float(F.cosine_similarity(rows[0], rows[1], dim=0)))
    assert gather(model, (x, y), progress=False).gradient_correlation == pytest.approx(np.mean(cosines), abs=1e-3)


def test_the_path_is_blocks_where_there_are_some() -> None:
    x, y = torch.randn(16, 3, 6, 6), torch.arange(16) % 2
    found = gather(toys.small_residual_net(), (x, y), progress=False)
    assert found.structure.n_shortcuts == 2
    assert set(found.path["role"]) == {"weighted"}  # two blocks are no profile
    deep = nn.Sequential(toys.small_residual_net().stem, nn.Sequential(*[toys.Residual(4) for _ in range(3)]),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))  # fmt: skip
    assert gather(deep, (x, y), progress=False).path["layer"].tolist() == ["1.0", "1.1", "1.2"]


def test_nothing_is_left_on_the_model() -> None:
    model, (x, y) = ailing.healthy(), ailing.data()
    model.train()
    model[3].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    state = torch.random.get_rng_state()
    gather(model, (x, y), lr=0.1, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_nothing_is_left_after_an_error() -> None:
    model, (x, y) = ailing.healthy(), ailing.data()

    def failing(model: nn.Module, batch: object) -> Tensor:
        model(x)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(model, (x, y), loss=failing, progress=False)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert int(model[1].num_batches_tracked) == 0


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (toys.InPlace(), (torch.randn(8, 3, 6, 6), torch.arange(8) % 2)),
        (toys.CalledTwice(), (torch.randn(8, 6), torch.arange(8) % 6)),
        (toys.TupleOut(), (torch.randn(8, 4, 5), torch.arange(8) % 2)),
        (toys.Checkpointed(), (torch.randn(8, 6), torch.arange(8) % 2)),
        (toys.Shared(), (torch.randn(8, 6), torch.arange(8) % 6)),
        (toys.DictOut(), torch.randn(8, 6)),
        (nn.Linear(6, 3), torch.randn(8, 6)),
        (nn.Linear(6, 3), (torch.randn(1, 6), torch.zeros(1, dtype=torch.long))),
    ],
    ids=["in-place", "called-twice", "tuple", "checkpointed", "shared", "dict-out", "no-labels", "one-sample"],
)
def test_awkward_models_give_evidence(model: nn.Module, batch: object) -> None:
    found = gather(model, batch, progress=False)
    assert len(found.layers) > 0
    assert found.outputs is not None


def test_a_transformer_gives_evidence() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(x).mean(1))

    found = gather(Pooled(), (torch.randn(8, 5, 16), torch.arange(8) % 3), progress=False)
    assert found.structure.n_norms == 4
    assert found.structure.n_shortcuts == 3  # the first adds the data themselves, which nothing computed
    assert found.jacobian is not None


def test_dict_batches_and_a_loss_of_ones_own_are_taken() -> None:
    batch = {"values": torch.randn(8, 6), "labels": torch.arange(8) % 3}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch["values"]), batch["labels"])

    found = gather(toys.DictIn(), [batch], loss=loss, progress=False)
    assert found.labels is not None
    assert len(found.labels.counts) == 3
    assert np.isfinite(found.kernels["gradient_norm"]).all()


def test_without_labels_nothing_is_known_of_gradients() -> None:
    found = gather(ailing.healthy(), ailing.data()[0], progress=False)
    assert found.kernels["gradient_norm"].isna().all()
    assert found.labels is None
    assert np.isnan(found.outputs.loss if found.outputs else 0.0)


class OwnLoss(nn.Module):
    """Gives a loss for a dict without labels, as masked autoencoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(6, 6)

    def forward(self, values: Tensor) -> SimpleNamespace:
        logits = self.lin(values)
        return SimpleNamespace(loss=((logits - values) ** 2).mean(), logits=logits)


def test_of_dicts_without_labels_gradients_are_known_where_the_model_gives_a_loss() -> None:
    batch = {"values": torch.randn(8, 6)}
    unknown = gather(toys.DictIn(), [batch], progress=False)
    assert unknown.kernels["gradient_norm"].isna().all()
    assert not unknown.setting.has_loss
    known = gather(OwnLoss(), [batch], progress=False)
    assert (known.kernels["gradient_norm"] > 0).all()


def test_how_it_was_gathered_is_known() -> None:
    found = gather(ailing.healthy(), ailing.data(200), seed=3, progress=False).setting
    assert (found.n_samples, found.seed, found.torch, found.device) == (128, 3, torch.__version__, "cpu")


def test_a_terminal_is_told_the_pass_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    gather(ailing.healthy(), ailing.data())
    assert shown.getvalue() == ""
    monkeypatch.setattr(shown, "isatty", lambda: True, raising=False)
    gather(ailing.healthy(), ailing.data())
    assert [name for name in PASSES if name in shown.getvalue()] == list(PASSES)
    assert shown.getvalue().lstrip("\r").startswith(f"{PASSES[0]}:   0%")


def test_layers_can_be_chosen() -> None:
    found = gather(ailing.healthy(), ailing.data(), layers=nn.Linear, progress=False)
    assert found.layers["layer"].tolist() == ["0", "3", "6", "9"]
    assert found.kernels["layer"].tolist() == ["0", "3", "6", "9"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batches": []}, ShapeError, "batches holds no samples"),
        ({"lr": -1.0}, ConfigError, "lr=-1.0: a learning rate is a positive number"),
        ({"lr": "0.1"}, ConfigError, "lr='0.1': a learning rate is a positive number"),
        ({"loss": nn.MSELoss()}, ConfigError, r"takes \(model, batch\).*batch: nn.MSELoss\(\)\(model\(batch\[0\]\)"),
        ({"loss": F.mse_loss}, ConfigError, r"lambda model, batch: F.mse_loss\(model\(batch\[0\]\), batch\[1\]\)"),
        ({"loss": "mse"}, ConfigError, "loss='mse' is no function"),
        ({"lr": float("nan")}, ConfigError, "lr=nan: a learning rate is a positive number"),
        ({"layers": "nothing.*"}, UnknownNameError, "matches nothing"),
        ({"batches": [(torch.randn(4, 16), torch.randn(4))]}, ConfigError, "pass loss=lambda"),
        ({"batches": [(torch.randn(4, 7), torch.arange(4))]}, ShapeError, "does not run as it trains on this batch"),
        ({"batches": [(torch.randn(1, 16), torch.zeros(1, dtype=torch.long))]}, ShapeError, "more than 1 value"),
        ({"loss": lambda model, batch: model(batch[0])}, ShapeError, "expected one number"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error(change: dict[str, object], error: type[DeepprobeError], message: str) -> None:
    given = {"batches": ailing.data()} | change
    with pytest.raises(error, match=message):
        gather(ailing.healthy(), given.pop("batches"), progress=False, **given)
