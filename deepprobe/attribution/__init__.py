"""Which units and inputs an answer rests on: attributions through captum, how concentrated they are, ablation."""

from deepprobe.attribution.calls import attributions
from deepprobe.attribution.layers import agreement, concentration, mask_relation

__all__ = ["agreement", "attributions", "concentration", "mask_relation"]
