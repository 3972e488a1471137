"""Gradients, weights and updates alongside training, against NumPy on weights that plain callbacks copied."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepprobe.distributed import Ranks
from deepprobe.errors import ConfigError
from deepprobe.integrations import GradientCallback, InFlightCallback, ProbeCallback, UpdateCallback, WeightCallback
from deepprobe.probes import gradient_signal, weight_spectra, weight_table
from deepprobe.records.frame import TIDY
from deepprobe.records.step import Step
from deepprobe.runs import MemoryRun
from deepprobe.training import Context, TrainConfig, at, train

CONFIG = TrainConfig(
    epochs=2, batch_size=50, lr=0.05, validation_share=0.2, schedule="constant", momentum=0.0, weight_decay=0.0
)
ALL = (ProbeCallback, GradientCallback, WeightCallback, UpdateCallback, InFlightCallback)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2), nn.Dropout(), nn.Flatten(),
            nn.Linear(96, 4),
        )  # fmt: skip


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(250, 1, 8, 8, generator=generator), torch.randint(0, 4, (250,), generator=generator)


class Copies:
    """Weights of the conv and linear layers after chosen steps, float64."""

    def __init__(self, points):
        self.weights = {}
        self.callback = at(points)(self)

    def __call__(self, context):
        kernels = {k: v for k, v in context.model.state_dict().items() if v.ndim >= 2}
        self.weights[context.step.index] = {
            key.removesuffix(".weight"): value.double().numpy().copy() for key, value in kernels.items()
        }


def test_an_update_is_what_the_weights_changed_by(data):
    copies = Copies("2it,3it,7it,8it")
    run = train(net(), data, config=CONFIG, callbacks=[UpdateCallback("at 3,8it"), copies.callback], quiet=True)
    layers = run.layers().set_index(["step", "layer"])
    assert len(layers) == 6
    for step in (3, 8):
        for name, before in copies.weights[step - 1].items():
            after, row = copies.weights[step][name], layers.loc[(step, name)]
            change = np.linalg.norm(after - before)
            assert row["update_ratio"] == pytest.approx(change / np.linalg.norm(before), rel=1e-6)
            assert row["weight_norm"] == pytest.approx(np.linalg.norm(after), rel=1e-6)
            assert row["gradient_norm"] == pytest.approx(change / CONFIG.lr, rel=1e-4)  # plain gradient descent
            assert (row["tap"], row["view"], row["split"]) == ("update", "kernel", "train")
    assert layers["depth"].tolist() == [1, 2, 3] * 2
    assert layers.loc[(3, "3"), ["n_rows", "n_features", "type"]].tolist() == [36, 6, "Conv2d"]


def test_the_gradient_is_the_clipped_one_and_the_sum_over_micro_batches(data):
    def gradients(**options):
        config = TrainConfig(**(CONFIG.as_dict() | {"epochs": 1} | options))
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False))
        with torch.no_grad():
            model[1].weight[:] = torch.linspace(-1, 1, 256).reshape(4, 64)
        return train(model, data, config=config, callbacks=[UpdateCallback("1it")], quiet=True).layers()

    whole = gradients()["gradient_norm"]
    assert (whole > 0.02).all()
    np.testing.assert_allclose(gradients(clip_norm=0.01)["gradient_norm"], 0.01, rtol=1e-4)
    np.testing.assert_allclose(gradients(micro_batches=3)["gradient_norm"], whole, rtol=1e-4)


def test_frozen_unreached_zero_and_shared_kernels():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.used, self.idle, self.head = (nn.Linear(6, 6, bias=False) for _ in range(4))
            self.twin = nn.Linear(6, 6, bias=False)
            self.twin.weight = self.used.weight
            self.frozen.weight.requires_grad = False
            nn.init.zeros_(self.head.weight)

        def forward(self, x):
            return self.head(self.twin(self.used(self.frozen(x))))

    x, y = torch.randn(40, 6), torch.randint(0, 6, (40,))
    config = TrainConfig(epochs=1, batch_size=40, validation_share=0.0, schedule="constant", weight_decay=0.0)
    run = train(Net(), (x, y), config=config, callbacks=[UpdateCallback("1it")], quiet=True)
    rows = run.layers().set_index("layer")[["update_ratio", "gradient_norm"]]
    assert list(rows.index) == ["frozen", "used", "idle", "head"]
    assert rows.loc["frozen", "update_ratio"] == 0.0
    assert np.isnan(rows.loc["frozen", "gradient_norm"])
    assert rows.loc["idle"].tolist() == [0.0, 0.0]
    assert rows.loc["used"].tolist() == [0.0, 0.0]  # the head was zero
    assert rows.loc["head", "update_ratio"] == np.inf


def test_gradients_and_weights_are_those_of_the_plain_functions(data):
    batches = [(data[0][:40], data[1][:40])]
    model = net()
    run = train(model, data, config=CONFIG, callbacks=[GradientCallback(batches=batches), WeightCallback()], quiet=True)
    layers = run.layers()
    assert sorted(layers["step"].unique()) == run.steps_probed() == [0, 4, 8]
    for tap, expected in (("gradient", gradient_signal(model, batches)), ("weight", weight_table(model))):
        found = layers[(layers["step"] == 8) & (layers["tap"] == tap)].reset_index(drop=True)
        pd.testing.assert_frame_equal(found[list(expected)], expected, check_dtype=False)
    for key, spectrum in weight_spectra(model).items():
        np.testing.assert_array_equal(run.spectra(8)[f"weight/kernel/{key}"], spectrum.singular_values)


def test_gradients_are_taken_on_128_samples_of_the_probe_set_and_with_a_loss_of_ones_own(data):
    x, y = data[0].repeat(4, 1, 1, 1), data[1].repeat(4)
    seen = []

    def loss(network, batch):
        seen.append(len(batch[0]))
        return F.cross_entropy(network(batch[0]), batch[1])

    callback = GradientCallback("at 0it", loss=loss, micro_batches=4)
    train(net(), (x, y), config=CONFIG, callbacks=[callback], quiet=True)
    assert sum(seen) == 128


class Watched(nn.Module):
    """A convolution whose inputs, in each forward pass of training, are kept."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 3), nn.Linear(64, 4)
        self.seen = []

    def forward(self, x):
        x = torch.relu(self.stem(x))
        if self.training:
            self.seen.append(x.detach().double().numpy().copy())
        return self.head(self.conv(x).flatten(1))


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_in_flight_is_what_passed_through_the_layer_in_that_update(data, micro_batches):
    model = Watched()
    config = TrainConfig(epochs=1, batch_size=50, validation_share=0.2, micro_batches=micro_batches)
    callback = InFlightCallback("at 2,4it", rows="all")
    run = train(model, data, config=config, callbacks=[callback], quiet=True)
    layers = run.layers().set_index(["step", "layer"])
    assert sorted(layers.index.unique(0)) == run.steps_probed() == [2, 4]
    assert set(layers["split"]) == {"train"}
    for step in (2, 4):
        passes = model.seen[(step - 1) * micro_batches : step * micro_batches]
        maps = np.concatenate(passes).transpose(0, 2, 3, 1).reshape(-1, 3)
        row = layers.loc[(step, "conv")]
        assert (row["n_rows"], row["n_features"], row["depth"]) == (len(maps), 3, 2)
        assert row["condition_number"] == pytest.approx(np.linalg.cond(maps), rel=1e-6)
        np.testing.assert_allclose(
            run.spectra(step)["train/input/channels/conv"], np.linalg.svd(maps, compute_uv=False), rtol=1e-9
        )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_hooks_are_gone_after_an_error_and_one_callback_serves_two_runs(data):
    def stop(context):
        raise RuntimeError("enough")

    callback, model = InFlightCallback("1it"), net()
    with pytest.raises(RuntimeError, match="enough"):
        train(model, data, config=CONFIG, callbacks=[callback, at("3it")(stop)], quiet=True)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    run = train(model, data, config=CONFIG, callbacks=[callback], quiet=True)
    assert run.steps_probed() == list(range(1, 9))


def test_training_with_all_of_them_is_training_without_to_the_last_bit(data):
    probed, alone = net(), net()
    with_all = train(probed, data, config=CONFIG, callbacks=[kind("3it") for kind in ALL], quiet=True)
    without = train(alone, data, config=CONFIG, quiet=True)
    pairs = zip(probed.state_dict().values(), alone.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in probed.modules())
    columns = ["split", "measure", "value"]
    a, b = (r.metrics().query("measure in ['loss', 'accuracy']")[columns] for r in (with_all, without))
    pd.testing.assert_frame_equal(a.reset_index(drop=True), b.reset_index(drop=True))


def test_all_rows_stand_in_one_table_and_all_spectra_beside_it(data):
    run = train(net(), data, config=CONFIG, callbacks=[kind("1ep") for kind in ALL], quiet=True)
    assert list(run.records().columns) == list(TIDY)
    layers = run.layers()
    places = {tuple(row) for row in layers[["split", "tap", "view"]].drop_duplicates().to_numpy()}
    assert places == {
        ("probe", "output", "samples"), ("probe", "input", "channels"), ("probe", "gradient", "kernel"),
        ("probe", "weight", "kernel"), ("train", "update", "kernel"), ("train", "input", "channels"),
    }  # fmt: skip
    assert layers.groupby(["step", "split", "tap"]).size().loc[4].tolist() == [3] * 3 + [3, 3, 3]
    kappa = layers["condition_number"].notna()
    assert (kappa == layers["tap"].isin(["output", "input", "weight"])).all()
    assert {key.rpartition("/")[0] for key in run.spectra(8)} == {
        "output/samples", "centred/output/samples", "input/channels", "centred/input/channels", "weight/kernel",
        "train/input/channels", "train/centred/input/channels",
    }  # fmt: skip


def test_a_killed_run_has_the_same_rows_in_the_end(tmp_path, data):
    class Stop(Exception):
        pass

    def stop(context):
        raise Stop

    def callbacks():
        return [kind("at 2,6it") for kind in ALL]

    expected = train(net(), data, config=CONFIG, callbacks=callbacks(), quiet=True)
    with pytest.raises(Stop):
        train(net(), data, config=CONFIG, callbacks=[*callbacks(), at("7it")(stop)], out=tmp_path / "r", quiet=True)
    run = train(net(5), data, config=CONFIG, callbacks=callbacks(), out=tmp_path / "r", quiet=True)
    pd.testing.assert_frame_equal(run.layers().drop(columns="run"), expected.layers().drop(columns="run"))
    for step in expected.steps_probed():
        a, b = run.spectra(step), expected.spectra(step)
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[k], b[k]) for k in a)


def test_only_the_main_rank_records_what_all_ranks_share(data):
    model, run = net(), MemoryRun("r", config={}, provenance={})
    batches = ((data[0][:40], data[1][:40]),)
    for rank in (1, 0):
        context = Context(
            model, Step(1, 4), run, torch.device("cpu"), probe_batches=batches, ranks=Ranks(rank, world_size=2)
        )
        GradientCallback()(context)
        WeightCallback()(context)
        with UpdateCallback().around_update(context):
            pass
        assert len(run.layers()) == (9 if rank == 0 else 0)


@pytest.mark.parametrize("kind", ALL)
def test_a_schedule_that_is_none_is_refused(kind):
    with pytest.raises(ConfigError, match=r"^'often' is no schedule; "):
        kind("often")
    assert kind("at 0,5it").schedule == kind("at 0it,5it").schedule


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning")  # torch's own
def test_a_compiled_model_is_watched_in_flight(data):
    found = {}
    for compiled in (False, True):
        config = TrainConfig(epochs=1, batch_size=50, validation_share=0.2, compile=compiled)
        model = nn.Sequential(*net()[:4], *net()[5:])  # without dropout, which draws other numbers when compiled
        callbacks = [InFlightCallback("at 2it", rows="all"), UpdateCallback("at 2it")]
        found[compiled] = train(model, data, config=config, callbacks=callbacks, quiet=True).layers()
    assert found[True]["layer"].tolist() == found[False]["layer"].tolist() == ["0", "3", "5"] * 2
    for column in ("condition_number", "gradient_norm", "update_ratio"):
        np.testing.assert_allclose(found[True][column], found[False][column], rtol=1e-3)
