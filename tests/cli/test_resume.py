"""``deepprobe train --resume``: the same run goes on, and nothing else can be made of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import deepprobe as dp
from deepprobe.cli import main
from deepprobe.cli.options import parse
from deepprobe.cli.resume import MAY_CHANGE, kept_settings
from deepprobe.cli.train import TrainOptions, jobs_from
from deepprobe.errors import DeepprobeError
from deepprobe.runs.manifest import MANIFEST, Manifest, digest_of_file
from deepprobe.runs.run import PROVENANCE
from deepprobe.training import load_checkpoint

TRAIN = [
    "train", "resnet8", "--limit", "200", "--epochs", "3", "--probe-every", "1ep", "--probe-samples", "16",
    "--clip-norm", "1", "--model-options", "shortcut=B", "--threads", "1",
]  # fmt: skip


class _Killed(Exception):
    """Stands for the end of the process."""


def killed_at_the_second_epoch(words: list[str], patch: pytest.MonkeyPatch) -> None:
    """Run a command whose process dies when it probes after the second epoch."""
    original = dp.ProbeCallback.__call__

    def probe(self: dp.ProbeCallback, context: Any) -> None:
        if context.step.epoch == 2:
            raise _Killed
        original(self, context)

    patch.setattr(dp.ProbeCallback, "__call__", probe)
    with pytest.raises(_Killed):
        main(words)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``whole/resnet8-seed0`` and, killed after two of three epochs, ``cut/resnet8-seed0``."""
    folder = tmp_path_factory.mktemp("runs")
    assert main([*TRAIN, "--out", str(folder / "whole"), "--quiet"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        killed_at_the_second_epoch([*TRAIN, "--out", str(folder / "cut"), "--quiet"], patch)
    return folder


@pytest.fixture
def two(once: Path, tmp_path: Path) -> Path:
    """A copy of ``once``."""
    return Path(shutil.copytree(once, tmp_path / "runs"))


def untimed(run: dp.runs.Run) -> pd.DataFrame:
    """Records of a run without those that differ from day to day."""
    records = run.records()
    return records[~records["measure"].str.contains("second")].drop(columns="run").reset_index(drop=True)


def test_a_resumed_run_is_the_one_that_was_never_killed(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = two / "cut" / "resnet8-seed0"
    assert dp.open_run(path).status == "running"
    assert main(["train", "--resume", str(path), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("resnet8-seed0: complete, test accuracy ")
    assert ", resumed  (1 of 1)" in shown
    run, whole = dp.open_run(path), dp.open_run(two / "whole" / "resnet8-seed0")
    pd.testing.assert_frame_equal(untimed(run), untimed(whole))
    last, expected = (load_checkpoint(r.check(r.files("checkpoints")[-1])).weights for r in (run, whole))
    assert all(torch.equal(last[name], expected[name]) for name in expected)
    assert main(["train", "--resume", str(two / "cut")]) == 0
    assert ", was there already" in capsys.readouterr().out


def test_a_folder_of_runs_is_resumed_and_others_are_refused(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(two / "cut"), "--lr", "0.5"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"deepprobe: --lr 0.5: {two / 'cut' / 'resnet8-seed0'} goes on as it was begun, with 0.02; ")
    assert all(f"--{name.replace('_', '-')}" in line for name in MAY_CHANGE)
    assert main(["train", "--resume", str(two / "cut"), "--out", "elsewhere"]) == 2
    assert capsys.readouterr().err.startswith("deepprobe: --out elsewhere: ")
    assert main(["train", "--resume", str(two / "cut"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert dp.list_runs(two / "cut")["status"].tolist() == ["complete"]


def test_what_is_kept_is_what_was_asked_for(two: Path) -> None:
    asked = parse(TrainOptions, TRAIN[1:], verb="train")
    kept = kept_settings(two / "cut" / "resnet8-seed0", TrainOptions)
    assert TrainOptions(**kept) == asked
    (job,) = jobs_from(["--resume", str(two / "cut"), "--threads", "2"])
    assert (job.name, job.path, job.options.threads) == ("resnet8-seed0", two / "cut" / "resnet8-seed0", 2)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"lr": "0.1"}, "{path}/provenance.json, command: lr = '0.1': input should be a valid number"),
        ({"epohcs": 3}, "{path}/provenance.json, command: unknown key 'epohcs'; did you mean 'epochs' or"),
        ({"out": "/etc"}, "{path}/provenance.json, command: 'out' is not kept with a run"),
        ({"models": ["resnet8", "vgg11"]}, "{path}/provenance.json, command: models = ['resnet8', 'vgg11']: a run has"),
        ({"study": {"models": 3, "seeds": [0]}}, "{path}/provenance.json, command, study: models = 3: input should be"),
        ({"study": ["resnet8"]}, "{path}/provenance.json, command, study = ['resnet8']: it holds models and seeds"),
        ({"seeds": [-1]}, "{path}/provenance.json, command: seeds = -1: input should be greater than or equal to 0"),
        (None, "{path} does not say with what command it was begun; give that command again, and it goes on"),
    ],
)
def test_an_edited_command(two: Path, edit: dict[str, Any] | None, message: str) -> None:
    path = two / "cut" / "resnet8-seed0"
    provenance = json.loads((path / PROVENANCE).read_text(encoding="utf-8"))
    command = {} if edit is None else provenance["command"] | edit
    (path / PROVENANCE).write_text(json.dumps(provenance | {"command": command}), encoding="utf-8")
    with pytest.raises(DeepprobeError, match="is damaged"):
        jobs_from(["--resume", str(path)])
    Manifest.read(path).with_file(PROVENANCE, digest_of_file(path / PROVENANCE)).write(path)  # an attacker can do that
    with pytest.raises(DeepprobeError) as error:
        jobs_from(["--resume", str(path)])
    assert str(error.value).startswith(message.format(path=path))
    assert (path / MANIFEST).is_file()


def test_runs_that_had_not_begun_are_made(once: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "runs"
    with pytest.MonkeyPatch.context() as patch:
        killed_at_the_second_epoch([*TRAIN, "--seeds", "0", "1", "--out", str(out), "--quiet"], patch)
    assert dp.list_runs(out)["name"].tolist() == ["resnet8-seed0"]
    alone = jobs_from(["--resume", str(out / "resnet8-seed0")])
    assert [job.name for job in alone] == ["resnet8-seed0"]
    jobs = jobs_from(["--resume", str(out)])
    assert [(job.name, job.options.clip_norm, job.options.limit) for job in jobs] == [
        ("resnet8-seed0", 1.0, 200),
        ("resnet8-seed1", 1.0, 200),
    ]
    assert all(job.command["study"] == {"models": ["resnet8"], "seeds": [0, 1]} for job in jobs)
    assert main(["train", "--resume", str(out)]) == 0
    assert "resnet8-seed1: complete" in capsys.readouterr().out
    assert dp.list_runs(out)["status"].tolist() == ["complete", "complete"]


def test_a_run_that_two_commands_asked_for_is_not_guessed(two: Path) -> None:
    for name, changed in (("resnet8-seed0", {}), ("resnet8-seed7", {"lr": 0.5, "seeds": [7]})):
        path = two / "cut" / name
        if not path.exists():
            shutil.copytree(two / "cut" / "resnet8-seed0", path)
        provenance = json.loads((path / PROVENANCE).read_text(encoding="utf-8"))
        command = provenance["command"] | changed | {"study": {"models": ["resnet8"], "seeds": [0, 7, 9]}}
        (path / PROVENANCE).write_text(json.dumps(provenance | {"command": command}), encoding="utf-8")
        Manifest.read(path).with_file(PROVENANCE, digest_of_file(path / PROVENANCE)).write(path)
    with pytest.raises(DeepprobeError, match="resnet8-seed9 was never begun, and was asked for with the settings of "):
        jobs_from(["--resume", str(two / "cut")])


def test_nothing_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"deepprobe: {tmp_path} is no run and holds none; ")
    assert main(["train", "--resume", str(tmp_path / "none")]) == 1
    assert "there is no folder" in capsys.readouterr().err
