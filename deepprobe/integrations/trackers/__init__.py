"""Trackers: TensorBoard, MLflow and Weights & Biases follow the records of a run.

Each follows ``training.tracking.Tracker`` and loads its package when it is made, not before.
"""

from deepprobe.integrations.trackers.mlflow import MLflowTracker
from deepprobe.integrations.trackers.scalars import LAYER_MEASURES
from deepprobe.integrations.trackers.tensorboard import TensorBoardTracker
from deepprobe.integrations.trackers.wandb import WandbTracker

TRACKERS = {"mlflow": MLflowTracker, "tensorboard": TensorBoardTracker, "wandb": WandbTracker}
"""Trackers by name; each is made of a folder alone, and needs neither network nor account."""

__all__ = ["LAYER_MEASURES", "TRACKERS", "MLflowTracker", "TensorBoardTracker", "WandbTracker"]
