"""Predictions of networks whose fate is plain, and what a prediction says of itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import deepprobe as dp
from deepprobe.diagnosis.prediction import FEATURES, calibrate, will_it_train
from deepprobe.diagnosis.prediction.limits import Setting, beyond, setting_of
from deepprobe.diagnosis.prediction.predict import N_NEAREST, predicted
from deepprobe.errors import ConfigError


def digits():
    return tuple(part[:64] for part in dp.load_dataset("digits", limit=64).tensors())


def resnet(**options):
    return dp.create_model("resnet", depth=14, base_width=8, in_channels=1, input_size=8, seed=0, **options)


def test_a_residual_network_trains_at_a_usual_rate_and_at_no_absurd_one():
    model, batch = resnet(), digits()
    usual, tiny, huge = (will_it_train(model, batch, lr=lr).probability for lr in (0.03, 1e-7, 1e4))
    assert usual > 0.7
    assert tiny < 0.3
    assert huge < 0.3


def test_a_dead_network_does_not_train():
    model = dp.create_model(
        "resnet", depth=56, shortcut="none", batch_norm=False, activation="sigmoid", base_width=8, in_channels=1,
        input_size=8, seed=0,
    )  # fmt: skip
    assert will_it_train(model, digits(), lr=0.03).probability < 0.2


def test_the_same_question_has_the_same_answer():
    first, second = (will_it_train(resnet(), digits(), lr=0.1) for _ in range(2))
    pd.testing.assert_frame_equal(first.features, second.features)
    assert first.probability == second.probability


def toy():
    rng = np.random.default_rng(0)
    features = pd.DataFrame(rng.uniform(-1, 1, size=(300, len(FEATURES))), columns=list(FEATURES))
    trained = features["trial"] < 0
    return features, calibrate(features, trained, configurations=[f"case {i}" for i in range(300)])


def test_a_network_of_the_calibration_finds_itself_nearest_and_inside():
    features, known = toy()
    found = predicted(features.iloc[11].to_dict(), known)
    assert found.nearest["configuration"].iloc[0] == "case 11"
    assert found.nearest["distance"].is_monotonic_increasing
    assert len(found.nearest) == N_NEAREST
    assert found.outside == ()
    assert found.trains == (features["trial"].iloc[11] < 0)
    assert found.base_rate == pytest.approx((features["trial"] < 0).mean())


def test_the_feature_that_decides_contributes_most():
    features, known = toy()
    found = predicted(features.loc[features["trial"].idxmax()].to_dict(), known)
    assert not found.trains
    assert FEATURES[found.features["contribution"].idxmin()] == "trial"


def test_features_beyond_the_calibration_are_named():
    _, known = toy()
    values = dict.fromkeys(FEATURES, 0.0) | {"descent": 1.5, "loss_excess": -4.0, "trial": 0.9}
    found = predicted(values, known)
    assert found.outside == ("descent", "loss_excess")
    assert str(found).startswith("Outside what it was calibrated on: descent, loss_excess; do not rely on it. Trains")


def test_a_prediction_says_its_reasons():
    features, known = toy()
    found = predicted(features.iloc[3].to_dict(), known)
    text = str(found)
    assert text.startswith(f"Trains with probability {found.probability:.2f}")
    assert f"trial {features['trial'].iloc[3]:.3g}" in text
    assert f"{int(found.nearest['trained'].sum())} of the 5 nearest calibrated trainings trained." in text


LIMITS = {"depth": [8, 110], "n_classes": 10, "batch_size": 64, "momentum": 0.9}
INSIDE = {
    "depth": 20, "n_convolutions": 19, "grouped": False, "n_classes": 10, "batch_size": 64, "momentum": 0.9,
}  # fmt: skip


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({}, ()),
        ({"depth": 8, "n_convolutions": 7, "n_classes": 5, "batch_size": 128}, ()),
        ({"depth": 3}, ("depth 3 (calibrated 8 to 110)",)),
        ({"depth": 164, "n_convolutions": 163}, ("depth 164 (calibrated 8 to 110)",)),
        ({"n_convolutions": 0}, ("no convolutions",)),
        ({"n_convolutions": 1}, ("1 of 20 layers convolutions (calibrated all but the last)",)),
        ({"grouped": True}, ("grouped convolutions",)),
        ({"n_classes": 100}, ("100 classes (calibrated 10)",)),
        ({"batch_size": 8}, ("8 samples in the batch (calibrated 64)",)),
        ({"momentum": 0.0}, ("momentum 0 (calibrated 0.9)",)),
    ],
)
def test_what_is_unlike_the_trainings_is_named(other, words):
    assert beyond(Setting(**(INSIDE | other)), LIMITS) == words
    assert beyond(Setting(**(INSIDE | other)), {}) == ()


def test_a_perceptron_is_outside_and_a_calibrated_network_is_not():
    torch.manual_seed(0)
    perceptron = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    found = will_it_train(perceptron, digits(), lr=0.03)
    assert found.outside[:2] == ("depth 3 (calibrated 8 to 110)", "no convolutions")
    assert str(found).startswith("Outside what it was calibrated on: depth 3 (calibrated 8 to 110), no convolutions")
    assert "do not rely on it" in found._repr_html_()
    assert will_it_train(resnet(), digits(), lr=0.03).outside == ()


def test_resnext164_is_outside():
    model = dp.create_model("resnext164", in_channels=1, input_size=8, seed=0)
    setting = setting_of(model, n_classes=10, batch_size=128, momentum=0.9)
    assert beyond(setting, LIMITS) == ("depth 164 (calibrated 8 to 110)", "grouped convolutions")


def mse(model, batch):
    return nn.functional.mse_loss(model(batch[0])[:, 0], batch[1].float())


@pytest.mark.parametrize("loss", [None, mse])
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.randn(8, 4), torch.randn(8)), "knows classification only.* has targets of float32"),
        ({"x": torch.randn(8, 4), "labels": torch.randn(8)}, "knows classification only.* has targets of float32"),
        (torch.randn(8, 4), "knows classification only.* has no targets"),
    ],
)
def test_regressions_are_refused(batch, message, loss):
    with pytest.raises(ConfigError, match=message):
        will_it_train(nn.Linear(4, 1), batch, lr=0.1, loss=loss)


@pytest.mark.parametrize(("shift", "span"), [(1, "1 to 3"), (-1, "-1 to 1")])
def test_labels_without_a_score_are_refused(shift, span):
    model = nn.Linear(4, 3)
    with pytest.raises(ConfigError, match=f"labels from {span}, but the model gives 3 scores a sample"):
        will_it_train(model, (torch.randn(6, 4), torch.arange(6) % 3 + shift), lr=0.1)
    assert not model._forward_hooks


def test_labels_that_cross_entropy_passes_over_are_fine():
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, -100, 0, 1])
    assert 0 <= will_it_train(nn.Linear(4, 3), (x, y), lr=0.1).probability <= 1
