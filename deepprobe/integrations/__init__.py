"""Where deepprobe meets training loops: its own."""

from deepprobe.integrations.in_flight import InFlightCallback
from deepprobe.integrations.jacobian_callback import JacobianCallback
from deepprobe.integrations.kernel_callbacks import GradientCallback, UpdateCallback, WeightCallback
from deepprobe.integrations.probe_callback import ProbeCallback
from deepprobe.integrations.unit_callback import UnitCallback

__all__ = [
    "GradientCallback",
    "InFlightCallback",
    "JacobianCallback",
    "ProbeCallback",
    "UnitCallback",
    "UpdateCallback",
    "WeightCallback",
]
