"""Probes alongside training: what they record, and that training does not notice them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from deepprobe.errors import ConfigError, UnknownNameError
from deepprobe.integrations import ProbeCallback
from deepprobe.probes import condition_numbers, spectra
from deepprobe.training import TrainConfig, at, train

CONFIG = TrainConfig(epochs=2, batch_size=50, lr=0.05, validation_share=0.2)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Block(nn.Module):
    """Convolution, normalisation, dropout and a shortcut."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.act, self.drop = (
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(),
        )

    def forward(self, x):
        return self.drop(self.act(self.bn(self.conv(x)))) + x


def blocks(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.Sequential(Block(), Block()), nn.Flatten(), nn.Linear(256, 4)
        )


def plain():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 4))


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(250, 1, 8, 8, generator=generator), torch.randint(0, 4, (250,), generator=generator)


def test_every_epoch_is_probed_and_the_untrained_network_too(data):
    run = train(blocks(), data, config=CONFIG, callbacks=[ProbeCallback()], quiet=True)
    layers = run.layers()
    assert sorted(layers["step"].unique()) == run.steps_probed() == [0, 4, 8]
    assert sorted(layers["epoch"].unique()) == [0.0, 1.0, 2.0]
    assert set(layers["split"]) == {"probe"}
    pairs = layers.groupby(["tap", "view"])["layer"].unique()
    assert list(pairs["block", "samples"]) == ["1.0", "1.1"]
    assert list(pairs["input", "channels"]) == ["0", "1.0.conv", "1.1.conv", "3"]


def test_the_records_are_those_of_condition_numbers(data):
    model, batches = blocks(), [data[0][:40]]
    run = train(model, data, config=CONFIG, callbacks=[ProbeCallback(batches=batches, rows="all")], quiet=True)
    found = run.layers().query("step == 8 and view == 'channels'").reset_index(drop=True)
    expected = condition_numbers(model, batches, tap="input", progress=False)
    columns = [c for c in expected.columns if c in found]
    assert {"condition_number", "centred_status", "numerical_rank", "n_dead"} <= set(columns)
    pd.testing.assert_frame_equal(found[columns], expected[columns], check_dtype=False)


def test_singular_values_are_stored_raw_and_centred(data):
    model, batches = blocks(), [data[0][:40]]
    run = train(model, data, config=CONFIG, callbacks=[ProbeCallback(batches=batches)], quiet=True)
    stored = run.spectra(8)
    expected = spectra(model, batches, tap="block", view="samples", progress=False)
    for key, spectrum in expected.items():
        np.testing.assert_array_equal(stored[f"block/samples/{key}"], spectrum.singular_values)
        np.testing.assert_array_equal(stored[f"centred/block/samples/{key}"], spectrum.centred.singular_values)
    assert len(stored) == 2 * (2 + 4)


def test_training_with_probes_is_training_without_to_the_last_bit(data):
    probed, alone = blocks(), blocks()
    with_probes = train(probed, data, config=CONFIG, callbacks=[ProbeCallback("1it", rows=3)], quiet=True)
    without = train(alone, data, config=CONFIG, quiet=True)
    assert all(
        torch.equal(a, b) for a, b in zip(probed.state_dict().values(), alone.state_dict().values(), strict=True)
    )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in probed.modules())
    columns = ["split", "measure", "value"]
    a, b = (r.metrics().query("measure in ['loss', 'accuracy']")[columns] for r in (with_probes, without))
    pd.testing.assert_frame_equal(a.reset_index(drop=True), b.reset_index(drop=True))


def test_a_killed_run_has_the_same_spectra_in_the_end(tmp_path, data):
    class Stop(Exception):
        pass

    def stop(context):
        raise Stop

    expected = train(blocks(), data, config=CONFIG, callbacks=[ProbeCallback("2it")], quiet=True)
    callbacks = [ProbeCallback("2it"), at("7it")(stop)]
    with pytest.raises(Stop):
        train(blocks(), data, config=CONFIG, callbacks=callbacks, out=tmp_path / "r", quiet=True)
    run = train(blocks(5), data, config=CONFIG, callbacks=[ProbeCallback("2it")], out=tmp_path / "r", quiet=True)
    pd.testing.assert_frame_equal(run.layers().drop(columns="run"), expected.layers().drop(columns="run"))
    assert run.steps_probed() == expected.steps_probed() == [0, 2, 4, 6, 8]
    for step in run.steps_probed():
        a, b = run.spectra(step), expected.spectra(step)
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[k], b[k]) for k in a)


def test_by_default_four_positions_a_sample_become_rows(data):
    run = train(blocks(), data, config=CONFIG, callbacks=[ProbeCallback("at 0it")], quiet=True)
    rows = run.layers().set_index(["view", "layer"])["n_rows"]
    assert rows["channels", "1.0.conv"] == 4 * 50  # of 50 samples held out
    assert rows["samples", "1.0"] == 50


@pytest.mark.parametrize(
    ("every", "steps"), [("at 0,1,2ep", [0, 4, 8]), ("at 1,2it", [1, 2]), ("log 1it..2ep x3", [0, 1, 3, 8])]
)
def test_every_may_be_any_schedule(data, every, steps):
    run = train(plain(), data, config=CONFIG, callbacks=[ProbeCallback(every, tap="input", view="samples")], quiet=True)
    assert run.steps_probed() == steps


def test_the_samples_view_is_given_128_samples_at_most(data):
    batches = [(x, y) for x, y in zip(data[0].split(50), data[1].split(50), strict=True)]
    callback = ProbeCallback(batches=batches, view="samples", tap=("input", "output"))
    run = train(plain(), data, config=CONFIG, callbacks=[at("0it")(callback)], quiet=True)
    assert set(run.layers()["n_rows"]) == {128}
    assert run.steps_probed() == [0]


def test_a_network_without_blocks_is_probed_at_its_layers(data):
    run = train(plain(), data, config=CONFIG, callbacks=[at("0it")(ProbeCallback())], quiet=True)
    assert set(zip(run.layers()["tap"], run.layers()["view"], strict=True)) == {
        ("output", "samples"), ("input", "channels"),
    }  # fmt: skip
    assert "output/samples/1" in run.spectra(0)


def test_dict_batches_are_cut_and_probed(data):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain()

        def forward(self, x):
            return self.inner(x["pixels"] if isinstance(x, dict) else x)

    callback = ProbeCallback(batches=[{"pixels": data[0]}], tap="input", view="samples")
    run = train(Named(), data, config=CONFIG, callbacks=[at("0it")(callback)], quiet=True)
    assert set(run.layers()["n_rows"]) == {128}


def test_layers_and_view_may_be_chosen(data):
    callback = ProbeCallback("1ep", layers="1.1.*", tap="output", view="pooled", also_at_start=False)
    run = train(blocks(), data, config=CONFIG, callbacks=[callback], quiet=True)
    assert run.steps_probed() == [4, 8]
    assert set(run.layers()["view"]) == {"pooled"}
    assert all(name.startswith("1.1.") for name in run.layers()["layer"])
    with pytest.raises(UnknownNameError, match="matches nothing"):
        train(blocks(), data, config=CONFIG, callbacks=[ProbeCallback(layers="none.*")], quiet=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"every": "often"},
            "'often' is no schedule; write it as '1ep', '500it', 'at 0,1,2,5,10ep', 'at 0it,5it,1ep' or "
            "'log 1it..10ep x8', with ' +start' at the end for the untrained network too",
        ),
        (
            {"tap": ("block", "input"), "view": ("samples", "channels", "pooled")},
            "ProbeCallback(tap=('block', 'input'), view=('samples', 'channels', 'pooled')): "
            "name one view for each tap, or one for all",
        ),
        (
            {"tap": ()},
            "ProbeCallback(tap=(), view=('samples', 'channels')): name one view for each tap, or one for all",
        ),
    ],
)
def test_what_does_not_fit_is_told(options, message):
    with pytest.raises(ConfigError) as error:
        ProbeCallback(**options)
    assert str(error.value) == message
