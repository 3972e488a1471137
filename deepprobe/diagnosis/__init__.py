"""What is wrong with a network, in plain words: evidence, rules, a prediction, and the autopsy of a training."""

from deepprobe.diagnosis.evidence import Evidence, gather

__all__ = ["Evidence", "gather"]
