"""Tables and runs of known content, built through Spectrum.row as probes build them."""

from dataclasses import dataclass, field, replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from deepprobe.records.layer import LayerCall
from deepprobe.records.spectrum import Spectrum, Units

mpl.use("agg")

N, D = 128, 64
LETTERS = "fscdbunez"


def spectrum(letter, depth, *, tap="block", view="channels", kappa=10.0, floor=float("nan"), layer=None):
    """f finite, c collapsed, d dead units, D dead and collapsed, b rank bound, s n < d, u unresolved, n NaN, e, z."""
    sigma = np.geomspace(kappa, 1.0, D)
    units, reasons, live, bound, n_rows = Units(), (), kappa, D, N
    if letter in "cD":
        sigma = np.concatenate([np.geomspace(1e3, 1.0, 5), np.full(D - 5, 1e-12)])
        live = np.inf
    if letter in "dD":
        sigma = np.concatenate([sigma[:-4], np.zeros(4)])
        units, reasons = Units(n_dead=4, n_constant=4), ("4 dead units",)
    if letter == "b":
        sigma = np.concatenate([sigma[:16], np.zeros(D - 16)])
        bound, live = 16, np.inf
    if letter == "s":
        n_rows, sigma, reasons, live, bound = 32, sigma[:32], ("n < d",), np.nan, 32
    if letter == "u":
        floor = 0.05 * kappa
    if letter == "n":
        sigma, units, live = np.empty(0), Units(n_nonfinite=7, first_nonfinite=3), np.nan
    if letter == "e":
        sigma, n_rows, live, bound = np.empty(0), 0, np.nan, 0
    if letter == "z":
        sigma, units, reasons, live = np.zeros(D), Units(n_dead=D, n_constant=D), (f"{D} dead units",), np.nan
    name = layer or f"features.stage{1 + 3 * (depth - 1) // 60}.block{depth}"
    call = LayerCall(depth=depth, order=depth, layer=name, call=1, type="Block", tap=tap)
    made = Spectrum(
        singular_values=sigma,
        n_rows=n_rows,
        n_features=D,
        dtype="float32",
        frobenius=float(np.linalg.norm(sigma)),
        call=call,
        view=view,
        rank_bound=bound,
        reasons=reasons,
        units=units,
        floor=floor,
        condition_number_live=live,
        condition_number_null=5.0,
    )
    return replace(made, centred=replace(made, is_centred=True))


def table_of(letters, **options):
    """Wide table, one layer a letter, at depths 1, 2, …."""
    return pd.DataFrame([spectrum(c, depth, **options).row() for depth, c in enumerate(letters, start=1)])


@dataclass
class FakeRun:
    name: str
    tables: dict  # step to wide table
    config: dict = field(default_factory=dict)
    provenance: dict = field(default_factory=dict)
    accuracy: float | None = None
    classes: float = 10.0
    stored: dict = field(default_factory=dict)
    status: str = "complete"
    message: str = ""

    def layers(self):
        parts = [t.assign(run=self.name, seed=0, step=s, epoch=s / 10) for s, t in self.tables.items()]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def metrics(self):
        if self.accuracy is None:
            return pd.DataFrame(columns=["run", "step", "epoch", "split", "measure", "value"])
        rows = []
        for step in range(0, 101, 10):
            share = step / 100
            loss = 2.3 * (1 - share * self.accuracy)
            for split in ("train", "test"):
                rows.append(
                    {"measure": "accuracy", "value": 0.1 + share * (self.accuracy - 0.1), "split": split, "step": step}
                )
                rows.append({"measure": "loss", "value": loss, "split": split, "step": step})
            rows.append({"measure": "majority_share", "value": 0.1, "split": "test", "step": step})
            rows.append({"measure": "top_prediction_share", "value": 1 / self.classes, "split": "test", "step": step})
            rows.append({"measure": "n_predicted_classes", "value": self.classes, "split": "test", "step": step})
        frame = pd.DataFrame(rows)
        return frame.assign(run=self.name, epoch=frame["step"] / 10, layer=None)

    def steps_probed(self):
        return list(self.stored)

    def spectra(self, step):
        return self.stored[step]


@pytest.fixture
def make_table():
    return table_of


@pytest.fixture
def make_spectrum():
    return spectrum


@pytest.fixture
def make_run():
    return FakeRun
