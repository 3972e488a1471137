"""Which units and inputs an answer rests on: attributions through captum, how concentrated they are, ablation."""
