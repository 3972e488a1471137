"""How outputs follow inputs: Jacobians of a network and of its parts, by products that never form them."""

from deepprobe.probes.jacobians.growth import jacobian_growth
from deepprobe.probes.jacobians.inputs import input_jacobian, jacobian_spectra, jacobian_summary
from deepprobe.probes.jacobians.layers import layer_jacobians

__all__ = ["input_jacobian", "jacobian_growth", "jacobian_spectra", "jacobian_summary", "layer_jacobians"]
