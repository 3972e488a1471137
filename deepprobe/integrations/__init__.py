"""Where deepprobe meets training loops: its own."""

from deepprobe.integrations.probe_callback import ProbeCallback

__all__ = ["ProbeCallback"]
