"""Which units and inputs an answer rests on: attributions through captum, how concentrated they are, ablation."""

from deepprobe.attribution.calls import attributions

__all__ = ["attributions"]
