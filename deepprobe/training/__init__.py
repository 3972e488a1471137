"""Training: a loop that nobody edits, its settings, callbacks, checkpoints and evaluation."""

from deepprobe.records.step import Step, at, every
from deepprobe.training.checkpoint import Checkpoint, load_checkpoint, load_weights, save_checkpoint
from deepprobe.training.config import TrainConfig
from deepprobe.training.context import Context
from deepprobe.training.evaluation import evaluate
from deepprobe.training.session import train

__all__ = [
    "Checkpoint",
    "Context",
    "Step",
    "TrainConfig",
    "at",
    "evaluate",
    "every",
    "load_checkpoint",
    "load_weights",
    "save_checkpoint",
    "train",
]
