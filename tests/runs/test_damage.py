"""Flipped bytes and truncations: none of them goes unnoticed. Kills are in ``tests/reliability``."""

from __future__ import annotations

import random

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
