"""What is wrong with a network, in plain words: evidence, rules, a prediction, and the autopsy of a training."""

from deepprobe.diagnosis.calls import Diagnosis, diagnose
from deepprobe.diagnosis.evidence import Evidence, gather
from deepprobe.diagnosis.prediction import trainable_depth, will_it_train
from deepprobe.diagnosis.rules import RULES, rules_table

__all__ = ["RULES", "Diagnosis", "Evidence", "diagnose", "gather", "rules_table", "trainable_depth", "will_it_train"]
