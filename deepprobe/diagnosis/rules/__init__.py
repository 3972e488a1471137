"""The rules of a diagnosis, a file a family."""

import pandas as pd

from deepprobe.diagnosis.rules import architecture, batch_statistics, data, gradients, outputs, signal, units
from deepprobe.diagnosis.rules.rule import Rule

RULES: tuple[Rule, ...] = (
    signal.nonfinite_values, signal.signal_explodes, signal.signal_dies, signal.samples_indistinguishable,
    signal.rank_collapse, signal.precision_horizon,
    gradients.gradients_explode, gradients.gradients_vanish, gradients.gradients_shattered, gradients.jacobian_explodes,
    gradients.jacobian_vanishes, gradients.unreached_parameters,
    gradients.all_parameters_frozen,
    units.dead_units, units.saturated_units, units.identical_units,
    architecture.structural_bottleneck, architecture.normalisation_missing, architecture.mis_scaled_initialisation,
    batch_statistics.batch_too_small, batch_statistics.channels_without_variance,
    batch_statistics.running_statistics_off,
    outputs.constant_predictions, outputs.softmax_twice, outputs.loss_above_chance,
    outputs.update_too_large, outputs.update_too_small,
    data.constant_inputs, data.inputs_not_scaled, data.input_scales_differ, data.nonfinite_inputs, data.single_class,
    data.class_imbalance, data.contradicting_labels,
)  # fmt: skip
"""All of them; a test asks of each for a network that it finds something in, and one that it does not."""


def rules_table() -> pd.DataFrame:
    """All rules as rows: ``rule finds threshold source advice``."""
    rows = [(r.name, r.finds, f"{r.threshold:.3g}", r.source, r.advice) for r in RULES]
    return pd.DataFrame(rows, columns=["rule", "finds", "threshold", "source", "advice"])


__all__ = ["RULES", "Rule", "rules_table"]
