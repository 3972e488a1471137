"""The page of a diagnosis, from tables whose numbers are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.records.finding import Finding, findings_table
from deepprobe.reports import evidence_by_depth, write_diagnosis, write_report
from deepprobe.reports.diagnosis import evidence_table, panels, render_diagnosis


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


LAYERS = pd.DataFrame(
    {
        "layer": ["a", "b", "c"], "depth": [1, 2, 3], "rms": [1.0, 1e3, 1e6], "gradient_norm": [1e9, 1.0, np.inf],
        "spread": [0.7, 0.5, 0.01], "effective_rank": [30.0, 20.0, 1.5], "precision": [1e-7, 1e-3, 0.5],
        "share_saturated": [np.nan] * 3, "n_dead": [np.nan, 2.0, 8.0], "n_units": [8, 8, 8],
    }
)  # fmt: skip
KERNELS = pd.DataFrame({"layer": ["a"], "depth": [1], "update_ratio": [np.nan]})


@dataclass
class Given:
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def evidence(self):
        setting = SimpleNamespace(n_samples=64, seed=3, torch="2.13", device="cpu")
        return SimpleNamespace(path=LAYERS, layers=LAYERS, kernels=KERNELS, setting=setting, lr=0.05)

    def table(self):
        return findings_table(self.findings)


BAD = Finding("signal-explodes", 0.9, "Grows at <script>alert(1)</script>.", "<b>", 2, "ratio", 1e6, 100.0, "He", "Do.")


def test_names_from_a_model_are_escaped():
    page = render_diagnosis(Given((BAD,)), title="<i>mine</i>")
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    assert "<i>mine" not in page
    assert "1 finding, 1 serious." in page
    assert "threshold 100. Source: He" in page


def test_a_page_without_findings_does_not_promise_health():
    page = render_diagnosis(Given())
    assert "No rule found anything." in page
    assert "no proof of health" in page


def test_notes_and_how_it_was_made_stand_on_the_page():
    page = render_diagnosis(Given(notes=("<b>Not</b> looked at.",)))
    assert "Note: &lt;b&gt;Not&lt;/b&gt; looked at." in page
    assert "from 64 samples, torch 2.13, on cpu, seed 3, learning rate 0.05." in page


def test_a_report_of_networks_names_the_page_of_a_diagnosis(tmp_path: Path):
    with pytest.raises(ShapeError, match=r"not from Given; deepprobe\.reports.write_diagnosis"):
        write_report(Given(), tmp_path / "a.html")


def test_the_page_is_the_same_each_time_and_written_whole(tmp_path: Path):
    first = write_diagnosis(Given((BAD,)), tmp_path / "deep" / "a.html").read_bytes()
    assert first == write_diagnosis(Given((BAD,)), tmp_path / "b.html").read_bytes()
    assert b"http://" not in first.replace(b"http://www.w3.org", b"")


def test_what_was_not_measured_has_no_figure():
    captions = " ".join(panel.caption for panel in panels(Given()))
    assert "dead" not in captions or "zero on every sample" in captions
    assert "bounded non-linearity" not in captions
    assert "learning rate" not in captions


def test_the_line_shows_the_numbers_and_the_cross_what_is_infinite():
    ax = evidence_by_depth(evidence_table(Given(), "gradient_norm"), measure="gradient_norm")
    line, cross = ax.get_lines()
    np.testing.assert_array_equal(line.get_ydata(), [1e9, 1.0, np.nan])
    assert cross.get_xdata().tolist() == [3]
    assert ax.get_yscale() == "log"


def test_the_threshold_is_drawn_where_a_rule_has_one():
    ax = evidence_by_depth(evidence_table(Given(), "precision"), measure="precision")
    assert ax.get_lines()[-1].get_ydata()[0] == 0.01
    assert evidence_table(Given(), "share_dead")["share_dead"].tolist() == [0.25, 1.0]


def test_an_unknown_measure_is_refused():
    with pytest.raises(ConfigError, match="measure='colour' is none of rms, "):
        evidence_by_depth(LAYERS, measure="colour")
