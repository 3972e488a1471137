"""Two processes record what one process in two micro-batches does."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from deepprobe.records.frame import POINT
from deepprobe.runs import open_run

JOB = Path(__file__).with_name("ddp_probes_job.py")


def test_the_rows_of_two_processes_are_those_of_one(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(JOB)]
    done = subprocess.run(
        [*command, str(tmp_path / "two")], capture_output=True, text=True, timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = runpy.run_path(str(JOB))["job"](None, micro_batches=2), open_run(tmp_path / "two")
    a, b = one.layers(), two.layers()
    keys = [*POINT[1:], "layer", "depth", "tap", "view", "n_rows", "n_features", "status", "n_dead", "numerical_rank"]
    pd.testing.assert_frame_equal(a[keys], b[keys])
    assert set(a["tap"]) == {"input", "gradient", "weight", "update"}
    for column in ("condition_number", "gradient_norm", "gradient_noise", "update_ratio", "weight_norm"):
        np.testing.assert_allclose(a[column], b[column], rtol=1e-3, err_msg=column)
    assert one.steps_probed() == two.steps_probed() == [0, 1, 4]
    for step, error in ((0, 1e-12), (1, 1e-6), (4, 1e-4)):  # the weights are the same bits at step 0 only
        mine, its = one.spectra(step), two.spectra(step)
        assert mine.keys() == its.keys()
        for key in mine:
            np.testing.assert_allclose(mine[key], its[key], rtol=0, atol=error * mine[key][0], err_msg=key)
