"""Units alongside training: what is recorded, and that training goes on as if nothing had looked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepprobe.errors import ConfigError
from deepprobe.integrations import UnitCallback
from deepprobe.probes import unit_profiles
from deepprobe.records.since import since_when
from deepprobe.training import TrainConfig, at, train

CONFIG = TrainConfig(
    epochs=3, batch_size=50, lr=0.05, validation_share=0.2, schedule="constant", momentum=0.0, weight_decay=0.0
)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(200, 1, 4, 4, generator=generator), torch.randint(0, 3, (200,), generator=generator)


def test_a_unit_that_dies_in_training_is_dated(data):
    @at("5it")
    def kill(context):
        with torch.no_grad():
            context.model[1].bias[2] = -1e3

    run = train(net(), data, config=CONFIG, callbacks=[kill, UnitCallback("at 0,2,5,8,12it")], quiet=True)
    units = run.units()
    assert sorted(units["step"].unique()) == [0, 2, 5, 8, 12]
    assert (units["split"] == "probe").all()
    assert run.layers().empty
    dead = since_when(units, ["dead"])
    assert dead[["layer", "unit", "since_step", "before_step", "always"]].values.tolist() == [["3", 2, 5, 2.0, False]]


def test_what_is_recorded_is_what_unit_profiles_says(data):
    kept = {}

    @at("0it,4it")
    def look(context):
        kept[context.step.index] = unit_profiles(context.model, list(context.probe_batches))

    callbacks = [look, UnitCallback("at 4it", measures=["activation_mean", "class_selectivity"])]
    run = train(net(), data, config=CONFIG, callbacks=callbacks, quiet=True)
    units = run.units()
    for measure in ("activation_mean", "activation_mean_se", "class_selectivity"):
        assert units[measure].tolist() == pytest.approx(kept[4][measure].tolist(), nan_ok=True)
    assert "dead" not in units


def test_training_does_not_notice(data):
    alone = net()
    train(alone, data, config=CONFIG, quiet=True)
    watched = net()
    train(watched, data, config=CONFIG, callbacks=[UnitCallback("1it")], quiet=True)
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), watched.parameters(), strict=True))


def test_a_measure_that_units_do_not_have_is_refused():
    with pytest.raises(ConfigError, match="name some of activation_mean"):
        UnitCallback(measures=["conductance"])
    with pytest.raises(ConfigError):
        UnitCallback(measures=[])
