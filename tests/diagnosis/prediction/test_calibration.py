"""Coefficients against scikit-learn's own pipeline, and the file that comes with the package."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deepprobe.diagnosis.prediction import FEATURES, Calibration, calibrate, default_calibration
from deepprobe.diagnosis.prediction.calibration import TWO_SIDED
from deepprobe.errors import ConfigError, ShapeError


def cases(n=120, seed=0):
    rng = np.random.default_rng(seed)
    features = pd.DataFrame(rng.normal(size=(n, len(FEATURES))), columns=list(FEATURES))
    odds = 2 * features["scores_spread"] + 2 - 2 * features["update_median"] ** 2
    return features, (odds + rng.logistic(size=n) > 0).to_numpy()


def test_probabilities_are_those_of_a_pipeline():
    features, trained = cases()
    asked, _ = cases(seed=1)

    def terms(frame):
        return np.hstack([frame, (frame[list(TWO_SIDED)] - features[list(TWO_SIDED)].median()) ** 2])

    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000)).fit(terms(features), trained)
    expected = pipeline.predict_proba(terms(asked))[:, 1]
    found = calibrate(features, trained).probability(asked)
    assert found == pytest.approx(expected, abs=1e-6)
    assert roc_auc_score(cases(seed=1)[1], found) > 0.8


def test_contributions_and_intercept_sum_to_the_log_odds():
    features, trained = cases()
    known = calibrate(features, trained)
    odds = known.contributions(features).sum(1) + known.intercept
    assert 1 / (1 + np.exp(-odds)) == pytest.approx(known.probability(features), abs=1e-12)


def test_far_away_features_give_zero_or_one_without_a_warning():
    features, trained = cases()
    known = calibrate(features, trained)
    assert set(known.probability(np.diag([1e6] * len(FEATURES)))) <= {0.0, 1.0}


def test_distances_are_in_standard_deviations():
    features, trained = cases()
    known = calibrate(features, trained)
    there = known.distances(features.iloc[7])
    assert there.argmin() == 7
    assert there[7] == 0
    expected = np.sqrt((((features - features.iloc[7]) / features.std(ddof=0)) ** 2).mean(axis=1))
    assert there == pytest.approx(expected.to_numpy())


def test_a_calibration_survives_its_file():
    features, trained = cases()
    known = calibrate(features, trained, configurations=[f"é {i}" for i in range(120)], about={"n": 120})
    again = Calibration.from_json(known.to_json())
    assert again.configurations == known.configurations
    assert again.about == {"n": 120}
    assert again.probability(features) == pytest.approx(known.probability(features), abs=1e-4)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weights": []}'])
def test_what_is_no_calibration_is_refused(text):
    with pytest.raises(ConfigError, match=r"^this calibration cannot be read"):
        Calibration.from_json(text)


def test_a_calibration_of_other_features_is_refused():
    features, trained = cases()
    other = json.loads(calibrate(features, trained).to_json())
    other["weights"] = other["weights"][:-1]
    with pytest.raises(ConfigError, match="8 weights where 9 are needed"):
        Calibration.from_json(json.dumps(other))


def test_one_outcome_alone_is_refused():
    features, _ = cases()
    with pytest.raises(ShapeError, match="120 of 120 trained"):
        calibrate(features, np.ones(120, dtype=bool))


def test_the_packages_calibration_tells_its_own_trainings_apart():
    known = default_calibration()
    assert len(known.trained) >= 200
    assert len(known.configurations) == len(known.features) == len(known.trained)
    assert roc_auc_score(known.trained, known.probability(known.features)) > 0.9


def test_the_packages_calibration_is_what_its_trainings_give():
    known = default_calibration()
    again = calibrate(pd.DataFrame(known.features, columns=list(FEATURES)), known.trained)
    assert again.probability(known.features) == pytest.approx(known.probability(known.features), abs=2e-3)
