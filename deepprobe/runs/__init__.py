"""Runs on disk: settings, records, spectra and checkpoints that survive a kill and show when they are damaged."""

from deepprobe.runs.folder import create_run, list_runs, open_run
from deepprobe.runs.run import FolderRun, MemoryRun, Run

__all__ = ["FolderRun", "MemoryRun", "Run", "create_run", "list_runs", "open_run"]
