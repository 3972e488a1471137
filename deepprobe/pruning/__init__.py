"""Pruning: masks, criteria, rewinding, and lottery-ticket experiments made of them."""

from deepprobe.pruning.collapse import LayerCollapseWarning
from deepprobe.pruning.connectivity import error_barrier, linear_path
from deepprobe.pruning.controls import random_masks, shuffled_masks
from deepprobe.pruning.criteria import CRITERIA, Criterion, Subject
from deepprobe.pruning.early_bird import EarlyBirdCallback, mask_distance
from deepprobe.pruning.gradual import GradualPruningCallback
from deepprobe.pruning.lottery.config import LotteryConfig
from deepprobe.pruning.lottery.run import lottery_tasks, run_lottery
from deepprobe.pruning.lottery.sources import Splits
from deepprobe.pruning.lottery.tasks import Engine, Task
from deepprobe.pruning.lottery.ticket import export_ticket
from deepprobe.pruning.masks import Masks
from deepprobe.pruning.removal import prune
from deepprobe.pruning.rewinding import rewind
from deepprobe.pruning.structured import prune_channels, smaller

__all__ = [
    "CRITERIA",
    "Criterion",
    "EarlyBirdCallback",
    "Engine",
    "GradualPruningCallback",
    "LayerCollapseWarning",
    "LotteryConfig",
    "Masks",
    "Splits",
    "Subject",
    "Task",
    "error_barrier",
    "export_ticket",
    "linear_path",
    "lottery_tasks",
    "mask_distance",
    "prune",
    "prune_channels",
    "random_masks",
    "rewind",
    "run_lottery",
    "shuffled_masks",
    "smaller",
]
