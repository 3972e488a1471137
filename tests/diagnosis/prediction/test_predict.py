"""Predictions of networks whose fate is plain, and what a prediction says of itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import deepprobe as dp
from deepprobe.diagnosis.prediction import FEATURES, calibrate, will_it_train
from deepprobe.diagnosis.prediction.predict import N_NEAREST, predicted


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
    assert "Outside the calibrated range: descent, loss_excess." in str(found)


def test_a_prediction_says_its_reasons():
    features, known = toy()
    found = predicted(features.iloc[3].to_dict(), known)
    text = str(found)
    assert text.startswith(f"Trains with probability {found.probability:.2f}")
    assert f"trial {features['trial'].iloc[3]:.3g}" in text
    assert f"{int(found.nearest['trained'].sum())} of the 5 nearest calibrated trainings trained." in text
