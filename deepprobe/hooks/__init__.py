"""Which layers, and what passes through them: selection, taps, hooks that leave nothing behind."""

from deepprobe.hooks.capture import capture
from deepprobe.hooks.select import LayerSelection, select_layers

__all__ = ["LayerSelection", "capture", "select_layers"]
