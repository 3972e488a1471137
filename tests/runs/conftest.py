"""A run with records and spectra in a folder."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from deepprobe.records.frame import TIDY, tidy
from deepprobe.records.spectrum import Spectrum
from deepprobe.runs import create_run

CONFIG = {"model": {"name": "net", "depth": 8}, "data": "digits", "training": {"seed": 3, "lr": 0.1}}
PROVENANCE = {"torch": "2.13", "threads": 1}


def metric_frame(step, **values):
    """Tidy rows of training metrics at one step, ten steps an epoch."""
    rows = [
        {"run": "a", "seed": 3, "round": 0, "step": step, "epoch": step / 10, "split": "test", "measure": k, "value": v}
        for k, v in values.items()
    ]
    return pd.DataFrame(rows, columns=list(TIDY))


def layer_frame(step):
    """Tidy rows of two layers at one step, one of them singular."""
    rows = [Spectrum.of(s, n_rows=9).row() | {"layer": n} for n, s in (("a", [4.0, 2.0]), ("<b>.1", [1.0, 0.0]))]
    return tidy(pd.DataFrame(rows), run="a", seed=3, round=0, step=step, epoch=step / 10, split="probe")


@pytest.fixture
def frames():
    return metric_frame, layer_frame


@pytest.fixture
def config():
    return CONFIG


@pytest.fixture
def make(tmp_path):
    """Function that makes, or opens, run ``a``."""

    def make(**changes):
        return create_run(tmp_path, name="a", config=CONFIG | changes, provenance=PROVENANCE)

    return make


@pytest.fixture
def run(make):
    """Run with two steps of records and spectra."""
    run = make()
    for step in (0, 10):
        run.append(metric_frame(step, accuracy=0.1 + step, loss=float("inf")))
        run.append(layer_frame(step))
        run.save_spectra(step, {"output/channels/a": np.array([4.0, 2.0]), "output/channels/<b>.1": [1.0, 0.0]})
    return run
