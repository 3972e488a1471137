"""Runs on disk: settings, records, spectra and checkpoints that survive a kill and show when they are damaged."""

from deepprobe.runs.experiment import Experiment, create_experiment, open_experiment
from deepprobe.runs.folder import create_run, list_runs, open_run
from deepprobe.runs.run import FolderRun, MemoryRun, Run

__all__ = [
    "Experiment",
    "FolderRun",
    "MemoryRun",
    "Run",
    "create_experiment",
    "create_run",
    "list_runs",
    "open_experiment",
    "open_run",
]
