"""Settings are right, or a ConfigError says what is wrong with which."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepprobe.errors import ConfigError
from deepprobe.training import TrainConfig

NAMES = [f.name for f in dataclasses.fields(TrainConfig)]


def test_settings_come_back_from_json_as_they_were():
    config = TrainConfig(epochs=3, milestones=(0.1, 0.9), clip_norm=1, schedule="step")
    assert TrainConfig(**json.loads(json.dumps(config.as_dict()))) == config


def test_the_identity_leaves_out_defaults_and_what_changes_nothing():
    config = TrainConfig(lr=0.5, device="cpu", checkpoint_every="5it", seed=3)
    assert config.identity() == {"lr": 0.5, "seed": 3}
    assert TrainConfig().identity() == {}


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epoch": 3}, "there is no setting 'epoch'; did you mean 'epochs' or 'warmup_epochs'?"),
        ({"lr": -1.0}, "lr=-1.0: Input should be greater than 0"),
        ({"epochs": "3"}, "epochs='3': Input should be a valid integer"),
        ({"epochs": True}, "epochs=True: Input should be a valid integer"),
        ({"lr": float("nan")}, "lr=nan: Input should be a finite number"),
        ({"optimizer": "SGD"}, "optimizer='SGD': Input should be 'sgd', 'adam' or 'adamw'"),
        ({"milestones": (0.7, 0.5)}, "milestones=(0.7, 0.5): must ascend"),
        ({"warmup_epochs": 1.0}, "warmup_epochs: the one-cycle schedule has its own warm-up; take 'cosine' or 'step'"),
        ({"warmup_epochs": 11.0, "schedule": "cosine"}, "warmup_epochs=11.0: must be within epochs=10"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov=True: needs optimizer='sgd' and a momentum above 0"),
        (
            {"checkpoint_every": "0it"},
            "checkpoint_every='0it': write it as '1ep', '500it' or '10min', and at least '1it' or '0.1min'",
        ),
        (
            {"checkpoint_every": "daily"},
            "checkpoint_every='daily': write it as '1ep', '500it' or '10min', and at least '1it' or '0.1min'",
        ),
    ],
)
def test_what_is_wrong_is_named(wrong, message):
    with pytest.raises(ConfigError) as error:
        TrainConfig(**wrong)
    assert str(error.value) == f"TrainConfig: {message}"


def test_positional_settings_are_refused():
    with pytest.raises(ConfigError, match="TrainConfig: "):
        TrainConfig(3)  # type: ignore[misc]


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=5),
    st.lists(st.floats() | st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from(["sgd", "adam", "cosine", "step", "bf16", "cpu\n", "cuda:1", "1ep", "9" * 5000]),
)  # fmt: skip


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=12), anything, min_size=1, max_size=4))
def test_malformed_settings_raise_config_errors_only(values):
    try:
        config = TrainConfig(**values)
    except ConfigError:
        return
    for name, value in values.items():
        kept = getattr(config, name)
        assert kept == (tuple(value) if name == "milestones" else value)
        assert type(kept) is type(value) or isinstance(kept, float | tuple)
