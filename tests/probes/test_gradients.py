"""Gradient norm and noise against plain loops of ``backward`` on copies, and that the model is left as it was."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toys
from torch import nn
from torch.utils.checkpoint import checkpoint

import deepprobe as dp
from deepprobe.errors import ConfigError, ShapeError, UnknownNameError
from deepprobe.probes import gradient_signal

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(37, 3, 6, 6, generator=GENERATOR), torch.randint(0, 4, (37,), generator=GENERATOR)


def net(dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Flatten(),
            nn.Linear(80, 4),
        )  # fmt: skip


def by_loops(model, batches, layers, *, cut, loss=None):
    """(norm, noise, snr, noise scale) by layer: one copy, one backward and one array a micro-batch."""
    loss = loss or (lambda m, b: F.cross_entropy(m(b[0]), b[1]))
    gradients, sizes = {name: [] for name in layers}, []
    for x, y in batches:
        for a, b in zip(torch.tensor_split(x, cut), torch.tensor_split(y, cut), strict=True):
            if not len(a):
                continue
            twin = copy.deepcopy(model).train()
            loss(twin, (a, b)).backward()
            sizes.append(len(a))
            for name in layers:
                gradients[name].append(twin.get_submodule(name).weight.grad.double().numpy().ravel())
    weights, m, total = np.array(sizes, dtype=float), len(sizes), sum(sizes)
    rows = {}
    for name in layers:
        g = np.array(gradients[name])
        mean = np.average(g, axis=0, weights=weights)
        trace = sum(w * np.sum((gi - mean) ** 2) for w, gi in zip(weights, g, strict=True)) / (m - 1)
        norm, noise = np.linalg.norm(mean), np.sqrt(trace * m / total)
        signal = norm**2 - trace / total
        rows[name] = (norm, noise, norm / noise, trace / signal if signal > 0 else np.inf)
    return rows


MEASURES = ["gradient_norm", "gradient_noise", "gradient_snr", "gradient_noise_scale"]


@pytest.mark.parametrize("cut", [2, 5, 8])
def test_the_numbers_are_those_of_plain_loops(cut):
    model = net()
    batches = [(X[:20], Y[:20]), (X[20:], Y[20:])]
    table = gradient_signal(model, batches, micro_batches=cut)
    expected = by_loops(model, batches, ["0", "5"], cut=cut)
    assert table["layer"].tolist() == list(expected)
    np.testing.assert_allclose(table[MEASURES].to_numpy(), list(expected.values()), rtol=1e-6)
    assert table["n_micro_batches"].tolist() == [2 * cut] * 2
    assert table[["depth", "tap", "view", "n_rows", "n_features", "type", "dtype"]].values.tolist() == [
        [1, "gradient", "kernel", 27, 5, "Conv2d", "float32"], [2, "gradient", "kernel", 80, 4, "Linear", "float32"],
    ]  # fmt: skip


def test_a_loss_of_ones_own_and_targets_that_are_numbers():
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 1))
    target = torch.randn(37, 1, generator=GENERATOR)

    def loss(network, batch):
        return F.mse_loss(network(batch[0]), batch[1])

    table = gradient_signal(model, [(X, target)], loss=loss, micro_batches=4)
    expected = by_loops(model, [(X, target)], ["1"], cut=4, loss=loss)
    np.testing.assert_allclose(table[MEASURES].to_numpy(), list(expected.values()), rtol=1e-6)
    with pytest.raises(ConfigError, match=r"^there is no default loss for these batches"):
        gradient_signal(model, [(X, target)])
    with pytest.raises(ShapeError) as error:
        gradient_signal(model, [(X, target)], loss=lambda m, b: m(b[0]))
    assert str(error.value) == "loss(model, batch) gave (5, 1); expected one number, the mean over the samples"


def test_noise_is_unbiased_where_it_is_known():
    """Gradient of ⟨w, x⟩ is the mean x: signal 3, covariance of one sample 0.25 · identity of 6."""
    model = nn.Linear(6, 1, bias=False)
    x = 3 / np.sqrt(6) + 0.5 * torch.randn(40_000, 6, generator=GENERATOR)
    row = gradient_signal(model, [x], loss=lambda m, b: m(b).mean(), micro_batches=400).iloc[0]
    assert row["gradient_norm"] == pytest.approx(3.0, rel=0.01)
    assert row["gradient_noise"] == pytest.approx(0.5 * np.sqrt(6 / 100), rel=0.05)
    assert row["gradient_noise_scale"] == pytest.approx(0.25 * 6 / 9, rel=0.1)


def test_noise_alone_has_a_snr_of_one_over_root_m_and_no_scale():
    x = torch.randn(4096, 500, generator=GENERATOR)
    row = gradient_signal(nn.Linear(500, 1, bias=False), [x], loss=lambda m, b: m(b).mean(), micro_batches=16).iloc[0]
    assert row["gradient_snr"] == pytest.approx(1 / 4, rel=0.15)
    assert row["gradient_noise_scale"] > 10_000


def test_float64_keeps_what_a_second_moment_less_a_product_of_means_would_lose():
    """Gradients of 1e9 that differ by 1: in float32 Σg² − (Σg)²/m is all rounding."""
    x = torch.full((64, 1), 1e9, dtype=torch.float64) + torch.tensor([[-1.0], [1.0]] * 32, dtype=torch.float64)
    model = nn.Linear(1, 1, bias=False).double()
    row = gradient_signal(model, [x], loss=lambda m, b: m(b).mean(), micro_batches=64).iloc[0]
    assert row["gradient_noise"] == pytest.approx(np.sqrt(64 / 63), rel=1e-6)


def snapshot(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("ends_in_error", [False, True])
def test_the_model_is_left_as_it_was(ends_in_error):
    model = net(dropout=0.5)
    model[1].eval()  # someone froze the normalisation
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before, buffers = snapshot(model), {key: value for key, value in model.named_buffers()}
    grad = model[0].weight.grad
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    drawn = (random.random(), np.random.rand(), torch.rand(1).item())  # noqa: NPY002
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002

    def loss(network, batch):
        assert network.training
        assert not network[1].training
        network[1].running_mean = network[1].running_mean + 1  # not in place: another tensor
        if ends_in_error:
            raise KeyboardInterrupt
        return F.cross_entropy(network(batch[0]), batch[1])

    if ends_in_error:
        with pytest.raises(KeyboardInterrupt):
            gradient_signal(model, (X, Y), loss=loss)
    else:
        gradient_signal(model, (X, Y), loss=loss)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(value is buffers[key] for key, value in model.named_buffers())
    assert [m.training for m in model] == [True, False, True, True, True, True]
    assert model[0].weight.grad is grad
    assert torch.equal(grad, torch.ones_like(grad))
    assert model[5].weight.grad is None
    assert drawn == (random.random(), np.random.rand(), torch.rand(1).item())  # noqa: NPY002
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_model_in_eval_mode_is_looked_at_as_it_trains():
    model = net()
    expected = gradient_signal(model, (X, Y))
    before = snapshot(model)
    with torch.no_grad():
        found = gradient_signal(model.eval(), (X, Y))
    assert not any(m.training for m in model.modules())
    np.testing.assert_array_equal(found[MEASURES], expected[MEASURES])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_dropout_follows_the_seed():
    model = net(dropout=0.5)
    a, b, c = (gradient_signal(model, (X, Y), seed=seed)["gradient_norm"].tolist() for seed in (0, 0, 1))
    assert a == b != c


def test_frozen_and_unreached_kernels():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.used, self.idle = (nn.Linear(6, 6) for _ in range(3))
            self.frozen.weight.requires_grad = False

        def forward(self, x):
            return self.used(self.frozen(x))

    x, y = torch.randn(16, 6, generator=GENERATOR), torch.randint(0, 6, (16,), generator=GENERATOR)
    table = gradient_signal(Net(), (x, y)).set_index("layer")
    assert table.loc["frozen", MEASURES].isna().all()
    assert table.loc["used", MEASURES].notna().all()
    assert table.loc["idle", ["gradient_norm", "gradient_noise"]].tolist() == [0.0, 0.0]
    assert table.loc["idle", ["gradient_snr", "gradient_noise_scale"]].isna().all()
    model = Net().requires_grad_(requires_grad=False)
    assert gradient_signal(model, (x, y))[MEASURES].isna().all(axis=None)


def test_a_shared_kernel_has_its_whole_gradient_once():
    torch.manual_seed(0)
    model = toys.Shared()
    x, y = torch.randn(16, 6, generator=GENERATOR), torch.randint(0, 6, (16,), generator=GENERATOR)
    table = gradient_signal(model, (x, y), micro_batches=4)
    assert table["layer"].tolist() == ["a"]
    np.testing.assert_allclose(
        table[MEASURES].to_numpy(), list(by_loops(model, [(x, y)], ["a"], cut=4).values()), rtol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 4)).to(dtype)
    row = gradient_signal(model, (X.to(dtype), Y)).iloc[0]
    expected = by_loops(copy.deepcopy(model).double(), [(X.to(dtype).double(), Y)], ["1"], cut=8)["1"]
    assert row["gradient_norm"] == pytest.approx(expected[0], rel=1e-6 if dtype == torch.float64 else 0.02)
    assert row["dtype"] == str(dtype).removeprefix("torch.")


def test_infinite_gradients_are_not_numbers():
    model = nn.Linear(108, 4)
    with torch.no_grad():
        model.weight[0, 0] = float("inf")
    assert gradient_signal(model, (X.flatten(1), Y))[MEASURES].isna().all(axis=None)


def test_dict_batches_with_a_loss_of_the_models_own():
    class Output(dict):
        __getattr__ = dict.get

    class Hugging(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(108, 4)

        def forward(self, pixels, labels=None):
            logits = self.lin(pixels.flatten(1))
            return Output(logits=logits, loss=F.cross_entropy(logits, labels))

    model = Hugging()
    table = gradient_signal(model, {"pixels": X, "labels": Y, "ids": list(range(37))})
    plain = gradient_signal(nn.Sequential(nn.Flatten(), model.lin), (X, Y))
    np.testing.assert_array_equal(table[MEASURES], plain[MEASURES])


def test_recomputed_blocks_and_sparse_gradients():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(7, 6, sparse=True)
            self.block, self.head = nn.Sequential(nn.Linear(6, 6), nn.ReLU()), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(checkpoint(self.block, self.embedding(x), use_reentrant=False))

    x, y = torch.randint(0, 7, (24,), generator=GENERATOR), torch.randint(0, 3, (24,), generator=GENERATOR)
    model = Net()
    table = gradient_signal(model, (x, y), micro_batches=3)
    dense = copy.deepcopy(model)
    dense.embedding.sparse = False
    expected = by_loops(dense, [(x, y)], ["embedding", "block.0", "head"], cut=3)
    np.testing.assert_allclose(table[MEASURES].to_numpy(), list(expected.values()), rtol=1e-5)


def test_wrapped_models_are_looked_through():
    model = net()
    expected = gradient_signal(model, (X, Y))
    found = gradient_signal(nn.DataParallel(model), (X, Y))
    np.testing.assert_array_equal(found[MEASURES], expected[MEASURES])
    assert found["layer"].tolist() == ["0", "5"]


@pytest.mark.parametrize("count", [1, 0, True, 2.0, "8"])
def test_noise_needs_two_parts(count):
    with pytest.raises(ConfigError) as error:
        gradient_signal(net(), (X, Y), micro_batches=count)
    assert str(error.value) == f"micro_batches={count!r}: noise is seen between parts, so name a number from 2 on"


def test_what_holds_too_little_is_refused():
    with pytest.raises(ShapeError, match=r"^the batches hold 0 samples; noise is seen between two at least$"):
        gradient_signal(net(), [])
    with pytest.raises(UnknownNameError, match="matches nothing"):
        gradient_signal(net(), (X, Y), layers="none")
    with pytest.raises(ShapeError, match="cannot be cut"):
        gradient_signal(nn.LSTM(5, 4), [nn.utils.rnn.pack_sequence([torch.randn(3, 5), torch.randn(2, 5)])])


def test_a_plain_network_of_depth_20_explodes_towards_its_stem():
    """He-initialised with batch normalisation: the gradient grows by a factor a layer on the way down (Yang 2019)."""
    x, y = torch.randn(32, 3, 32, 32, generator=GENERATOR), torch.randint(0, 10, (32,), generator=GENERATOR)
    torch.manual_seed(0)
    plain, residual = (
        gradient_signal(dp.create_model(name), (x, y), micro_batches=2)["gradient_norm"].to_numpy()
        for name in ("plainnet20", "resnet20")
    )
    assert plain[1] / plain[-2] > 2 * residual[1] / residual[-2]


def test_a_model_without_logits_is_told_what_to_pass():
    class Table(nn.Linear):
        def forward(self, x):
            return {"logits": super().forward(x)}

    with pytest.raises(ConfigError, match=r"no default loss for a model that returns dict: .* pass loss=lambda model"):
        gradient_signal(Table(3, 2), [(torch.randn(8, 3), torch.zeros(8, dtype=torch.int64))])
