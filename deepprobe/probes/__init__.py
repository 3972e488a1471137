"""From a model and batches to spectra: the probe, its one-call forms, and the float64 replay."""

from deepprobe.hooks.capture import capture
from deepprobe.probes.calls import condition_numbers, spectra
from deepprobe.probes.distributions import distributions
from deepprobe.probes.gradients import gradient_signal
from deepprobe.probes.jacobians import (
    input_jacobian,
    jacobian_growth,
    jacobian_spectra,
    jacobian_summary,
    layer_jacobians,
)
from deepprobe.probes.probe import Probe
from deepprobe.probes.shattering import gradient_autocorrelation, gradient_correlation
from deepprobe.probes.similarity import similarity
from deepprobe.probes.unit_profiles import unit_profiles
from deepprobe.probes.weights import weight_spectra, weight_table

__all__ = [
    "Probe",
    "capture",
    "condition_numbers",
    "distributions",
    "gradient_autocorrelation",
    "gradient_correlation",
    "gradient_signal",
    "input_jacobian",
    "jacobian_growth",
    "jacobian_spectra",
    "jacobian_summary",
    "layer_jacobians",
    "similarity",
    "spectra",
    "unit_profiles",
    "weight_spectra",
    "weight_table",
]
