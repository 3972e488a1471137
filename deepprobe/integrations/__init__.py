"""Where deepprobe meets training loops: its own."""

from deepprobe.integrations.in_flight import InFlightCallback
from deepprobe.integrations.kernel_callbacks import GradientCallback, UpdateCallback, WeightCallback
from deepprobe.integrations.probe_callback import ProbeCallback

__all__ = ["GradientCallback", "InFlightCallback", "ProbeCallback", "UpdateCallback", "WeightCallback"]
