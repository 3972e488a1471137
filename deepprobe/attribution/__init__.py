"""Which units and inputs an answer rests on: attributions through captum, how concentrated they are, ablation."""

from deepprobe.attribution.ablation import ablation_areas, ablation_curves, unit_damage
from deepprobe.attribution.calls import attributions
from deepprobe.attribution.layers import agreement, concentration, mask_relation
from deepprobe.attribution.pictures import Pictures, grad_cam_maps, input_attributions

__all__ = [
    "Pictures",
    "ablation_areas",
    "ablation_curves",
    "agreement",
    "attributions",
    "concentration",
    "grad_cam_maps",
    "input_attributions",
    "mask_relation",
    "unit_damage",
]
