"""A whole job, killed at random moments and started again by the same command, ends as the one that nobody killed."""

from __future__ import annotations

import json

from reliability.trials import trials

JOBS = """
import json, os, random, signal, sys, time
import torch
import deepprobe.integrations, deepprobe.cli.train
from deepprobe.cli import main
from deepprobe.runs import open_run
from deepprobe.training import load_checkpoint

folder, n_jobs, draw = sys.argv[1], int(sys.argv[2]), random.Random(11)
torch.set_num_threads(1)

def start(out):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(f"{folder}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        words = ["train", "resnet8", "--out", out, "--limit", "200", "--epochs", "2", "--threads", "1", "--quiet"]
        words += ["--probe-every", "1ep", "--probe-samples", "16", "--checkpoint-every", "2it"]
        words += ["--augmentation", "pad-crop"]
        os._exit(main(words))
    return child

def finished(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def outcome(out):
    run = open_run(f"{out}/resnet8-seed0")
    table = run.records()
    table = table[~table["measure"].str.contains("second")].reset_index(drop=True)
    checkpoint = load_checkpoint(run.check(run.files("checkpoints")[-1]))
    spectra = {(s, k): v.tobytes() for s in run.steps_probed() for k, v in run.spectra(s).items()}
    names = {p.name for p in run.path.rglob("*") if p.is_file()}
    return run.status, table, checkpoint.weights, checkpoint.training["optimizer"]["state"], spectra, names

def same(a, b):
    if a[0] != b[0] or not a[1].equals(b[1]) or a[4] != b[4] or a[5] != b[5] or a[2].keys() != b[2].keys():
        return False
    momenta = all(torch.equal(a[3][i]["momentum_buffer"], b[3][i]["momentum_buffer"]) for i in a[3])
    return momenta and all(torch.equal(a[2][k], b[2][k]) for k in a[2])

started = time.monotonic()
assert finished(start(f"{folder}/whole")) == 0
whole = time.monotonic() - started
expected = outcome(f"{folder}/whole")
assert expected[0] == "complete" and len(expected[4]) > 0 and len(expected[1]) > 100

equal = killed = terminated = in_time = 0
for job in range(n_jobs):
    out = f"{folder}/job{job}"
    for attempt in range(2):
        child = start(out)
        time.sleep(draw.uniform(0.02, 0.8) * whole)
        number = signal.SIGTERM if (job + attempt) % 4 == 3 else signal.SIGKILL
        os.kill(child, number)
        code = finished(child)
        if code == 0:
            in_time += 1
            break
        assert code in {-signal.SIGKILL, -signal.SIGTERM, 130}, code
        killed, terminated = killed + (number == signal.SIGKILL), terminated + (number == signal.SIGTERM)
    assert finished(start(out)) == 0
    equal += same(outcome(out), expected)
print(json.dumps({
    "equal": equal, "killed": killed, "terminated": terminated, "in_time": in_time, "rows": len(expected[1]),
}))
"""


@trials("jobs", quick=1, full=20)
def test_a_killed_job_ends_in_the_same_bits(tmp_path, in_process, tally, n):
    found = json.loads(in_process(JOBS, tmp_path, n))
    tally(
        f"jobs killed ({found['killed']} SIGKILL, {found['terminated']} SIGTERM) and started again until complete: "
        f"{found['equal']} of {n} with equal bits in weights and momenta and equal tables of {found['rows']:,} rows"
    )
    assert found["equal"] == n
    assert found["killed"] + found["terminated"] >= n
