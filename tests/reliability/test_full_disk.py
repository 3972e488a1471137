"""A disk that is full at whatever write, or read-only: the old state loads, and the error names path and cause.

A disk is made scarce in two ways: a tmpfs that is given so many pages more than it holds (as root, where mounting is
allowed), and RLIMIT_FSIZE, which limits each file.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch

from deepprobe.errors import RunError
from deepprobe.records.frame import TIDY
from deepprobe.records.step import Step
from deepprobe.reports import write_report
from deepprobe.reports.tables import write_tables
from deepprobe.runs import create_run, list_runs, open_run
from deepprobe.training import TrainConfig, load_checkpoint, train
from deepprobe.training.checkpoints import Checkpoints

PAGES = [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
CAUSE = r"No space left on device|File too large|database or disk is full|disk I/O error"
READ_ONLY = r"Read-only file system|Permission denied|readonly database|unable to open database file"


class Tmpfs:
    """A file system in memory that can be made as small as wanted."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no file system can be mounted here")

    def remount(self, options):
        subprocess.run(["mount", "-o", f"remount,{options}", self.folder], check=True)

    @contextmanager
    def scarce(self, pages):
        about = os.statvfs(self.folder)
        used = about.f_blocks - about.f_bfree
        self.remount(f"size={(used + pages) * about.f_bsize or 1}")  # 0 would mean no limit
        try:
            yield
        finally:
            self.remount("size=64m")

    @contextmanager
    def read_only(self):
        self.remount("ro")
        try:
            yield
        finally:
            self.remount("rw")

    def close(self):
        subprocess.run(["umount", self.folder], check=True)


class Limited:
    """An ordinary folder, and a limit for each file."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    @contextmanager
    def scarce(self, pages):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (pages * 4096, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    @contextmanager
    def read_only(self):
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        folders = [self.folder, *(p for p in self.folder.rglob("*") if p.is_dir())]
        for path in folders:
            path.chmod(0o555)
        try:
            yield
        finally:
            for path in folders:
                path.chmod(0o755)

    def close(self):
        pass


@pytest.fixture(params=[pytest.param(Tmpfs, marks=pytest.mark.slow), Limited])
def disk(request, tmp_path):
    disk = request.param(tmp_path / "disk")
    yield disk
    disk.close()


def rows(step, n=300):
    words = [dict(step=step, epoch=step, split="test", measure=f"m{i}", value=1.0) for i in range(n)]
    return pd.DataFrame(words, columns=list(TIDY))


@pytest.fixture
def made(disk):
    """A disk, a run on it with two steps of everything, and its checkpoints."""
    run = create_run(disk.folder, name="a", config={"model": "m"}, provenance={})
    checkpoints = Checkpoints(run, TrainConfig(), about={})
    for step in (0, 10):
        run.append(rows(step))
        run.save_spectra(step, {"k": np.full(500, step)})
        checkpoints.save(Step(step, 10), torch.nn.Linear(100, 200), {"index": step})
    write_report(run, disk.folder / "report.html")
    write_tables(run, disk.folder / "tables")
    return disk, run, checkpoints


WRITES = {
    "manifest": lambda disk, run, _: run.set_status("interrupted", "x" * 9000),
    "records": lambda disk, run, _: run.append(rows(20)),
    "spectra": lambda disk, run, _: run.save_spectra(20, {"k": np.ones(5000)}),
    "checkpoint": lambda disk, run, checkpoints: checkpoints.save(
        Step(20, 10), torch.nn.Linear(100, 200), {"index": 20}
    ),
    "rewinding": lambda disk, run, _: run.rewind(5),
    "another run": lambda disk, run, _: create_run(disk.folder, name="b", config={"c": "x" * 9000}, provenance={}),
    "report": lambda disk, run, _: write_report(run, disk.folder / "report.html", title="x" * 9000),
    "tables": lambda disk, run, _: write_tables(run, disk.folder / "tables"),
}


def everything(disk):
    """All that a reader learns of the run and the files beside it."""
    run = open_run(disk.folder / "a")
    newest = Checkpoints(run, TrainConfig(), about={}).newest()
    weights = {k: v.tolist() for k, v in newest[0].weights.items()}
    spectra = {step: run.spectra(step)["k"].tolist() for step in run.steps_probed()}
    beside = {p.name: p.read_bytes() for p in (*disk.folder.glob("*.html"), *disk.folder.glob("tables/*.csv"))}
    return run.status, run.records().to_csv(), spectra, newest[0].training, weights, beside, run.files("checkpoints")


def attempt(disk, pages, write):
    """What the error says of a write with so many pages left; None if it succeeds."""
    try:
        with disk.scarce(pages):
            write()
    except RunError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", list(WRITES))
def test_a_full_disk_at_every_write(made, tally, kind):
    disk, run, checkpoints = made
    before, refused = everything(disk), 0
    for pages in PAGES:
        said = attempt(disk, pages, lambda: WRITES[kind](disk, run, checkpoints))
        if said is None:
            break
        refused += 1
        assert str(disk.folder) in said
        assert re.search(CAUSE, said), said
        assert everything(disk) == before
        assert not list(disk.folder.rglob("*.aside"))
    else:
        pytest.fail("it never succeeded")
    assert refused
    everything(disk)
    tally(f"full disk ({type(disk).__name__.lower()}), {kind}: {refused} of {refused} times the old state loads")


@pytest.mark.parametrize("kind", list(WRITES))
def test_a_read_only_folder(made, kind):
    disk, run, checkpoints = made
    before = everything(disk)
    with disk.read_only():
        with pytest.raises(RunError, match=READ_ONLY) as error:
            WRITES[kind](disk, run, checkpoints)
        assert str(disk.folder) in str(error.value)
        assert everything(disk) == before
        assert list_runs(disk.folder)["status"].tolist() == ["stopped"]
    WRITES[kind](disk, run, checkpoints)


def test_training_meets_a_full_disk_and_goes_on_from_its_last_checkpoint(disk):
    images = torch.randn(96, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(96) % 10
    config = TrainConfig(epochs=3, batch_size=16, checkpoint_every="2it", validation_share=0.0)

    def net():
        torch.manual_seed(1)
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 200), torch.nn.ReLU(), torch.nn.Linear(200, 10)
        )

    whole = net()
    train(whole, (images, labels), config=config, out=disk.folder, name="whole", quiet=True)
    stack = []

    def fill(context):
        if context.step.index == 7 and not stack:
            stack.append(disk.scarce(1))
            stack[0].__enter__()

    fill.schedule = every_step
    with pytest.raises(RunError, match=CAUSE) as error:
        train(net(), (images, labels), config=config, out=disk.folder, name="a", quiet=True, callbacks=[fill])
    stack[0].__exit__(None, None, None)
    assert str(disk.folder) in str(error.value)
    run = open_run(disk.folder / "a")
    assert load_checkpoint(run.check(run.files("checkpoints")[-1])).training["index"] == 6
    again = net()
    done = train(again, (images, labels), config=config, out=disk.folder, name="a", quiet=True, callbacks=[fill])
    assert done.status == "complete"
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


class _EveryStep:
    def is_due(self, step):
        return True


every_step = _EveryStep()
