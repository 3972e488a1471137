"""A lottery experiment, killed at random moments and started again by the same call, ends as the one nobody killed."""

from __future__ import annotations

import json

from reliability.trials import trials

EXPERIMENTS = """
import json, os, random, signal, sys, time
import torch
from torch import nn
from deepprobe.data import load_dataset
from deepprobe.pruning import LotteryConfig, run_lottery
from deepprobe.runs import open_run
from deepprobe.training import TrainConfig, load_checkpoint

folder, n_kills, draw = sys.argv[1], int(sys.argv[2]), random.Random(17)
torch.set_num_threads(1)
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)  # loads what every child would load for itself
images, labels = load_dataset("digits").tensors()
part = (images[:240], labels[:240]), (images[240:340], labels[240:340])

def network(seed):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, 10)
    )

config = LotteryConfig(
    training=TrainConfig(epochs=2, batch_size=24, lr=0.05, checkpoint_every="5it", device="cpu"),
    rounds=4, prune=0.3, controls=("reinit",), rewind="4it", probe_samples=16, evaluate_every="6it",
)

def start(out):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(f"{folder}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        run_lottery(network, part, config, out=out, quiet=True)
        os._exit(0)
    return child

def finished(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def bits(value):
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(entry) for key, entry in value.items()}
    return [bits(entry) for entry in value] if isinstance(value, list | tuple) else value

def outcome(out):
    found = {}
    for path in sorted((p for p in os.scandir(out) if p.is_dir()), key=lambda p: p.name):
        run = open_run(path.path)
        assert run.status == "complete", (path.name, run.status)
        table = run.records()
        table = table[~table["measure"].str.contains("second")].reset_index(drop=True)
        checkpoint = load_checkpoint(run.check(run.files("checkpoints")[-1]))
        files = {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()}
        found[path.name] = {
            "masks": open(run.check("masks.safetensors"), "rb").read(), "weights": bits(checkpoint.weights),
            "optimizer": bits(checkpoint.training["optimizer"]["state"]), "files": files, "table": table,
        }
    return found

def same(a, b):
    return a.keys() == b.keys() and all(
        a[run][part].equals(b[run][part]) if part == "table" else a[run][part] == b[run][part]
        for run in b for part in b[run]
    )

started = time.monotonic()
assert finished(start(f"{folder}/whole")) == 0, open(f"{folder}/log").read()[-2000:]
whole = time.monotonic() - started
expected = outcome(f"{folder}/whole")
assert len(expected) == 9, list(expected)
assert len({run["masks"] for run in expected.values()}) == 5, "rounds do not prune"
assert len({run["weights"]["0.weight"] for run in expected.values()}) == 9, "trainings are all alike"

killed = equal = n_experiments = in_time = 0
while killed < n_kills:
    out = f"{folder}/{n_experiments}"
    while killed < n_kills:
        child = start(out)
        time.sleep(draw.uniform(0.02, 0.6) * whole)
        os.kill(child, signal.SIGKILL)
        code = finished(child)
        if code == 0:
            in_time += 1
            break
        assert code == -signal.SIGKILL, open(f"{folder}/log").read()[-2000:]
        killed += 1
    assert finished(start(out)) == 0, open(f"{folder}/log").read()[-2000:]
    equal += same(outcome(out), expected)
    n_experiments += 1
print(json.dumps({"killed": killed, "experiments": n_experiments, "equal": equal, "in_time": in_time, "whole": whole}))
"""


@trials("lottery_kills", quick=2, full=25)
def test_a_killed_experiment_ends_in_the_same_bits(tmp_path, in_process, tally, n):
    found = json.loads(in_process(EXPERIMENTS, tmp_path, n))
    tally(
        f"lottery experiments of 4 rounds with a control (9 trainings) under {found['killed']} SIGKILLs: "
        f"{found['equal']} of {found['experiments']} end in equal bits of masks, weights and momenta, equal tables "
        "and the same files"
    )
    assert found["killed"] == n
    assert found["equal"] == found["experiments"]
