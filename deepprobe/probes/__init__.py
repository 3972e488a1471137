"""From a model and batches to spectra: the probe, its one-call forms, and the float64 replay."""

from deepprobe.hooks.capture import capture
from deepprobe.probes.calls import condition_numbers, spectra
from deepprobe.probes.probe import Probe

__all__ = ["Probe", "capture", "condition_numbers", "spectra"]
