"""Reports: one HTML page, figures that take a frame and axes, and tables, all from what probes and runs recorded."""

from deepprobe.reports.figures import (
    condition_by_depth,
    condition_heatmap,
    rank_by_depth,
    spectra_by_depth,
    training_curves,
    units_by_depth,
)
from deepprobe.reports.html import write_report
from deepprobe.reports.kernels import kernels_by_depth
from deepprobe.reports.source import spectra_frame
from deepprobe.reports.tables import summary, write_tables

__all__ = [
    "condition_by_depth",
    "condition_heatmap",
    "kernels_by_depth",
    "rank_by_depth",
    "spectra_by_depth",
    "spectra_frame",
    "summary",
    "training_curves",
    "units_by_depth",
    "write_report",
    "write_tables",
]
