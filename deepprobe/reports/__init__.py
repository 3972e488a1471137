"""Reports: one HTML page, figures that take a frame and axes, and tables, all from what probes and runs recorded."""

from deepprobe.reports.attribution import (
    ablation_by_fraction,
    agreement_by_depth,
    attribution_pictures,
    concentration_by_depth,
    lorenz_by_layer,
)
from deepprobe.reports.autopsy import autopsy_figure, autopsy_map
from deepprobe.reports.diagnosis import evidence_by_depth, write_diagnosis
from deepprobe.reports.figures import (
    condition_by_depth,
    condition_heatmap,
    rank_by_depth,
    spectra_by_depth,
    training_curves,
    units_by_depth,
)
from deepprobe.reports.html import write_report
from deepprobe.reports.jacobians import autocorrelation_by_lag, jacobians_by_depth
from deepprobe.reports.kernels import kernels_by_depth
from deepprobe.reports.lottery.figures import (
    barrier_by_density,
    conditioning_by_density,
    outcome_by_density,
    overlap_by_density,
)
from deepprobe.reports.lottery.maps import condition_by_round, density_by_layer
from deepprobe.reports.lottery.write import write_lottery_report, write_lottery_tables
from deepprobe.reports.results_page import made_on, markdown_table, spread, write_between_marks
from deepprobe.reports.roc import roc_curves
from deepprobe.reports.similarity import similarity_heatmap
from deepprobe.reports.source import spectra_frame
from deepprobe.reports.tables import summary, write_csv, write_tables
from deepprobe.reports.unit_figures import distribution_by_depth, unit_states_heatmap, units_measure_by_depth

__all__ = [
    "ablation_by_fraction",
    "agreement_by_depth",
    "attribution_pictures",
    "autopsy_figure",
    "autopsy_map",
    "autocorrelation_by_lag",
    "barrier_by_density",
    "concentration_by_depth",
    "condition_by_depth",
    "condition_by_round",
    "condition_heatmap",
    "conditioning_by_density",
    "density_by_layer",
    "evidence_by_depth",
    "jacobians_by_depth",
    "distribution_by_depth",
    "kernels_by_depth",
    "lorenz_by_layer",
    "outcome_by_density",
    "made_on",
    "markdown_table",
    "overlap_by_density",
    "rank_by_depth",
    "roc_curves",
    "similarity_heatmap",
    "spectra_by_depth",
    "spectra_frame",
    "spread",
    "summary",
    "training_curves",
    "unit_states_heatmap",
    "units_by_depth",
    "units_measure_by_depth",
    "write_between_marks",
    "write_csv",
    "write_diagnosis",
    "write_lottery_report",
    "write_lottery_tables",
    "write_report",
    "write_tables",
]
