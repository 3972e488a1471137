"""Why does this very deep network train, or fail to? Per-layer condition numbers and spectra for PyTorch.

The names below live in the package's rooms and are fetched from there on first use, so that ``import deepprobe``
loads neither torch nor seaborn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepprobe.attribution import attributions
    from deepprobe.data import list_datasets, load_dataset
    from deepprobe.diagnosis import diagnose
    from deepprobe.diagnosis.autopsy import autopsy
    from deepprobe.diagnosis.prediction import trainable_depth, will_it_train
    from deepprobe.errors import DeepprobeError
    from deepprobe.integrations import (
        GradientCallback,
        InFlightCallback,
        JacobianCallback,
        ProbeCallback,
        UnitCallback,
        UpdateCallback,
        WeightCallback,
    )
    from deepprobe.integrations.stored_model import load_model
    from deepprobe.models import create_model, describe_model, list_models
    from deepprobe.probes import (
        Probe,
        capture,
        condition_numbers,
        distributions,
        gradient_correlation,
        gradient_signal,
        input_jacobian,
        layer_jacobians,
        similarity,
        spectra,
        unit_profiles,
        weight_spectra,
        weight_table,
    )
    from deepprobe.pruning import LotteryConfig, run_lottery
    from deepprobe.records.since import since_when
    from deepprobe.records.spectrum import Spectrum
    from deepprobe.reports import write_report
    from deepprobe.runs import list_runs, open_experiment, open_run
    from deepprobe.training import TrainConfig, train

_HOME = {
    "DeepprobeError": "deepprobe.errors",
    "GradientCallback": "deepprobe.integrations",
    "InFlightCallback": "deepprobe.integrations",
    "JacobianCallback": "deepprobe.integrations",
    "LotteryConfig": "deepprobe.pruning",
    "Probe": "deepprobe.probes",
    "ProbeCallback": "deepprobe.integrations",
    "Spectrum": "deepprobe.records.spectrum",
    "TrainConfig": "deepprobe.training",
    "UnitCallback": "deepprobe.integrations",
    "UpdateCallback": "deepprobe.integrations",
    "WeightCallback": "deepprobe.integrations",
    "autopsy": "deepprobe.diagnosis.autopsy",
    "attributions": "deepprobe.attribution",
    "capture": "deepprobe.probes",
    "condition_numbers": "deepprobe.probes",
    "create_model": "deepprobe.models",
    "describe_model": "deepprobe.models",
    "diagnose": "deepprobe.diagnosis",
    "distributions": "deepprobe.probes",
    "gradient_correlation": "deepprobe.probes",
    "gradient_signal": "deepprobe.probes",
    "input_jacobian": "deepprobe.probes",
    "layer_jacobians": "deepprobe.probes",
    "list_datasets": "deepprobe.data",
    "list_models": "deepprobe.models",
    "list_runs": "deepprobe.runs",
    "load_dataset": "deepprobe.data",
    "load_model": "deepprobe.integrations.stored_model",
    "open_experiment": "deepprobe.runs",
    "open_run": "deepprobe.runs",
    "run_lottery": "deepprobe.pruning",
    "similarity": "deepprobe.probes",
    "since_when": "deepprobe.records.since",
    "spectra": "deepprobe.probes",
    "train": "deepprobe.training",
    "trainable_depth": "deepprobe.diagnosis.prediction",
    "unit_profiles": "deepprobe.probes",
    "weight_spectra": "deepprobe.probes",
    "weight_table": "deepprobe.probes",
    "will_it_train": "deepprobe.diagnosis.prediction",
    "write_report": "deepprobe.reports",
}

_ROOMS = (
    "attribution",
    "data",
    "diagnosis",
    "hooks",
    "integrations",
    "linalg",
    "measures",
    "models",
    "probes",
    "pruning",
    "records",
    "reports",
    "runs",
    "training",
)

__all__ = [
    "DeepprobeError",
    "GradientCallback",
    "InFlightCallback",
    "JacobianCallback",
    "LotteryConfig",
    "Probe",
    "ProbeCallback",
    "Spectrum",
    "TrainConfig",
    "UnitCallback",
    "UpdateCallback",
    "WeightCallback",
    "attributions",
    "autopsy",
    "capture",
    "condition_numbers",
    "create_model",
    "describe_model",
    "diagnose",
    "distributions",
    "gradient_correlation",
    "gradient_signal",
    "input_jacobian",
    "layer_jacobians",
    "list_datasets",
    "list_models",
    "list_runs",
    "load_dataset",
    "load_model",
    "open_experiment",
    "open_run",
    "run_lottery",
    "similarity",
    "since_when",
    "spectra",
    "train",
    "trainable_depth",
    "unit_profiles",
    "weight_spectra",
    "weight_table",
    "will_it_train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Fetch a public name from its room, or the room itself, once."""
    if name in _ROOMS:
        return import_module(f"deepprobe.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'deepprobe' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names and rooms, whether fetched already or not."""
    return sorted({*__all__, *_ROOMS, *(name for name in globals() if name.startswith("__"))})
