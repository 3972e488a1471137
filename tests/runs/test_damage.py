"""Kills, flipped bytes and truncations: none of them goes unnoticed, none of them loses what was acknowledged."""

from __future__ import annotations

import random
import re
import subprocess
import sys

import pytest

from deepprobe.errors import RunError
from deepprobe.runs import open_run


def everything(path):
    """All that a reader can learn from a run."""
    run = open_run(path)
    spectra = {(step, key): v.tolist() for step in run.steps_probed() for key, v in run.spectra(step).items()}
    return run.config, run.provenance, run.identity, run.status, run.message, spectra, run.records().to_csv()


def outcome_of_reading(path):
    """All that a reader learns, or the error."""
    try:
        return everything(path)
    except RunError as error:
        return error


def files_of(run):
    return sorted(p for p in run.path.rglob("*") if p.is_file() and p.stat().st_size)


@pytest.mark.parametrize("status", ["running", "complete"])
def test_a_flipped_byte_is_noticed_or_harmless(run, status):
    run.set_status(status)
    before = everything(run.path)
    draw, refused, harmless = random.Random(1), 0, 0
    for _ in range(150):
        path = draw.choice(files_of(run))
        content = path.read_bytes()
        at = draw.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :])
        outcome = outcome_of_reading(run.path)
        if isinstance(outcome, RunError):
            assert path.name in str(outcome), "the message names the file"
            refused += 1
        else:
            assert outcome == before, f"byte {at} of {path.name} changed what is read"
            harmless += 1
        path.write_bytes(content)
    assert refused > 60
    if status == "complete":
        assert harmless <= 5, "white space of the manifest at most"


def test_a_truncated_file_is_refused_by_name(run):
    run.set_status("complete")
    draw = random.Random(2)
    for path in files_of(run) * 3:
        content = path.read_bytes()
        cut = draw.randrange(len(content) - 1)
        path.write_bytes(content[:cut])
        with pytest.raises(RunError, match=str(path.name)):
            everything(run.path)
        path.write_bytes(content)
    everything(run.path)


def test_a_missing_file_is_named(run):
    run.set_status("complete")
    for path in files_of(run):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(RunError, match=str(path.name)):
            everything(run.path)
        path.write_bytes(content)


KILLS = """
import os, random, signal, sys, time
import numpy as np
import pandas as pd
from deepprobe.records.frame import TIDY
from deepprobe.runs import open_run

draw, step = random.Random(3), 0
for kill in range(20):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        run = open_run(sys.argv[1])
        while True:
            step += 1
            rows = [dict(step=step, epoch=step, split="test", measure=f"m{i}", value=1.0) for i in range(200)]
            run.append(pd.DataFrame(rows, columns=list(TIDY)))
            os.write(writer, b"%d\\n" % step)
            run.save_spectra(step % 5, {"k": np.full(2000, float(step))})
    time.sleep(draw.uniform(0.0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as lines:
        acknowledged = [step, *map(int, lines.read().split())][-1]
    run = open_run(sys.argv[1])
    counts = run.records().groupby("step").size()
    assert (counts == 200).all(), "half an append"
    assert len(counts) in {acknowledged, acknowledged + 1}, (len(counts), acknowledged)
    for probed in run.steps_probed():
        assert len(set(run.spectra(probed)["k"])) == 1
    step = len(counts)
    run.rewind(10**6)
    left = [f for _, _, files in os.walk(sys.argv[1]) for f in files if f.endswith(".aside")]
    assert not left, left
print(kill + 1, "kills,", step, "steps")
"""


def test_a_killed_writer_leaves_a_whole_run(make):
    command = [sys.executable, "-c", KILLS, str(make().path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"20 kills, [1-9]\d* steps\n", done.stdout)
