"""Pruning: masks, criteria, rewinding, and lottery-ticket experiments made of them."""

from deepprobe.pruning.masks import Masks

__all__ = ["Masks"]
