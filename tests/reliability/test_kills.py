"""A writer that is killed at any moment leaves a whole run, which is at the last step or the last acknowledged one."""

from __future__ import annotations

import json

from reliability.trials import trials

WRITER = """
import json, os, random, signal, sys, time
import numpy as np
import pandas as pd
import torch
from deepprobe.records.frame import TIDY
from deepprobe.records.step import Step
from deepprobe.runs import create_run, open_run
from deepprobe.training import TrainConfig
from deepprobe.training.checkpoints import Checkpoints

torch.set_num_threads(1)
N_ROWS, n_kills = 10, int(sys.argv[2])
draw, model = random.Random(7), torch.nn.Linear(300, 500)
path = create_run(sys.argv[1], name="a", config={}, provenance={}).path

def write(writer, step):
    run = open_run(path)
    checkpoints = Checkpoints(run, TrainConfig(), about={})
    while True:
        step += 1
        rows = [dict(step=step, epoch=step, split="test", measure=f"m{i}", value=1.0) for i in range(N_ROWS)]
        run.append(pd.DataFrame(rows, columns=list(TIDY)))
        run.save_spectra(step % 4, {"k": np.full(20_000, float(step))})
        torch.nn.init.constant_(model.weight, step)
        checkpoints.save(Step(step, 10), model, {"index": step})
        os.write(writer, b"%d\\n" % step)

def left_aside():
    return [f for _, _, files in os.walk(path) for f in files if f.endswith(".aside")]

step = leftovers = late = 0
for kill in range(n_kills):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        write(writer, step)
    time.sleep(draw.uniform(0.0, 0.4))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as lines:
        acknowledged = [step, *map(int, lines.read().split())][-1]
    leftovers += len(left_aside())
    run = open_run(path)
    counts = run.records().groupby("step").size()
    assert (counts == N_ROWS).all(), "half an append"
    assert len(counts) in {acknowledged, acknowledged + 1}, (len(counts), acknowledged)
    for probed in run.steps_probed():
        assert len(set(run.spectra(probed)["k"])) == 1
    checkpoints = Checkpoints(run, TrainConfig(), about={})
    newest = checkpoints.newest()
    found = newest[0].training["index"] if newest else 0
    assert found in {acknowledged, acknowledged + 1}, (found, acknowledged)
    if newest:
        assert set(newest[0].weights["weight"].flatten().tolist()) == {float(found)}
    late += found > acknowledged
    checkpoints.rewind_run(found)
    assert not left_aside(), left_aside()
    listed = set(run.files("checkpoints")) | set(run.files("spectra"))
    there = {p.relative_to(path).as_posix() for p in path.glob("*/*")}
    assert there == listed, there ^ listed
    assert len(run.records().groupby("step").size()) == found
    step = found
print(json.dumps({"readable": kill + 1, "steps": step, "leftovers": leftovers, "unacknowledged": late}))
"""

PLAIN = """
import json, os, random, signal, sys, time
import torch

torch.set_num_threads(1)
path, n_kills, draw, readable = sys.argv[1], int(sys.argv[2]), random.Random(7), 0
model = torch.nn.Linear(3000, 500)
for kill in range(n_kills):
    child = os.fork()
    if child == 0:
        while True:
            torch.save(model.state_dict(), path)
    time.sleep(0.03 + draw.uniform(0.0, 0.12))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        torch.load(path, weights_only=True)
        readable += 1
    except Exception:
        pass
print(json.dumps({"readable": readable}))
"""


@trials("kills", quick=10, full=200)
def test_a_killed_writer_leaves_a_whole_run(tmp_path, in_process, tally, n):
    found = json.loads(in_process(WRITER, tmp_path, n))
    tally(
        f"SIGKILL while records, spectra and checkpoints are written: {found['readable']} of {n} readable, at the last "
        f"or the last acknowledged step ({found['steps']} steps, {found['unacknowledged']} one step on); "
        f"{found['leftovers']} files left aside, all gone at the next start"
    )
    assert found["readable"] == n
    assert found["steps"] > 0


@trials("kills_plain", quick=10, full=60)
def test_plain_torch_save_does_not(tmp_path, in_process, tally, n):
    found = json.loads(in_process(PLAIN, tmp_path / "w.pt", n))
    tally(f"the same with plain torch.save: {found['readable']} of {n} readable")
    assert found["readable"] < n
