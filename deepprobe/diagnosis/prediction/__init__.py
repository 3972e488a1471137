"""Will it train, and how deep may one go? A prediction from one batch at initialisation, calibrated on trainings."""

from deepprobe.diagnosis.prediction.calibration import Calibration, calibrate, default_calibration
from deepprobe.diagnosis.prediction.depths import TrainableDepth, trainable_depth
from deepprobe.diagnosis.prediction.features import FEATURES, initial_features
from deepprobe.diagnosis.prediction.predict import Prediction, will_it_train

__all__ = [
    "FEATURES",
    "Calibration",
    "Prediction",
    "TrainableDepth",
    "calibrate",
    "default_calibration",
    "initial_features",
    "trainable_depth",
    "will_it_train",
]
