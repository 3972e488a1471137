"""How outputs follow inputs: Jacobians of a network and of its parts, by products that never form them."""

from deepprobe.probes.jacobians.inputs import input_jacobian, jacobian_spectra, jacobian_summary

__all__ = ["input_jacobian", "jacobian_spectra", "jacobian_summary"]
