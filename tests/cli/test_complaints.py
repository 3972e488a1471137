"""What goes wrong in training, in one line that somebody at the command line can use."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import deepprobe as dp
from deepprobe.cli import main
from deepprobe.cli.complaints import in_options
from deepprobe.cli.train import TrainOptions

TRAIN = ["train", "resnet8", "--limit", "200", "--epochs", "2", "--quiet"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--micro-batches", "100"], "--micro-batches 100: must be at most --batch-size 64"),
        (["--checkpoint-every", "1sec"], "--checkpoint-every"),
        (["--probe-every", "banana"], "--probe-every 'banana' is no schedule; "),
        (["--warmup-epochs", "1"], "--warmup-epochs: the one-cycle schedule has its own warm-up; "),
        (["--device", "gpu"], "--device 'gpu': "),
        (["--measure", "spectra"], "--measure: nothing is probed without --probe-every; "),
        (["--model-options", "shortct=B"], "resnet8 has no option 'shortct'; "),
        (["--epochs", "0"], "--epochs 0: "),
    ],
)
def test_impossible_settings_all_end_with_2(
    words: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRAIN, *words, "--out", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert line in said
    assert "TrainConfig" not in said
    assert not (tmp_path / "runs").exists()


def test_names_of_options_are_found_in_words() -> None:
    text = "TrainConfig: batch_size=3: must be above my_batch_size=2; lr: no"
    assert in_options(text, TrainOptions) == "--batch-size 3: must be above my_batch_size=2; --lr: no"


@pytest.mark.parametrize("seeds", [["0"], ["0", "1"]])
def test_ctrl_c_tells_where_and_how_to_go_on(
    seeds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(self: dp.WeightCallback, context: Any) -> None:
        if context.step.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(dp.WeightCallback, "__call__", interrupt)
    words = [*TRAIN, "--probe-every", "1ep", "--measure", "weights", "--seeds", *seeds, "--out", str(tmp_path)]
    assert main(words) == 130
    path = tmp_path / "resnet8-seed0"
    (kept,) = dp.open_run(path).files("checkpoints")
    said = capsys.readouterr().err
    assert said.startswith(f"deepprobe: resnet8-seed0: stopped at step 1ep; the last checkpoint is {kept}; ")
    command = f"deepprobe train --resume {tmp_path if len(seeds) > 1 else path}\n"
    assert said.endswith(f": {command}")
    monkeypatch.undo()
    assert main([*command.split()[1:], "--quiet"]) == 0
    assert dp.list_runs(tmp_path)["status"].tolist() == ["complete"] * len(seeds)


@pytest.mark.filterwarnings("ignore")
def test_a_network_that_cannot_be_compiled_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise OSError("no compiler here\n" + "a line of thousands\n" * 1000)

    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiled(f, backend=broken, **options))
    words = [word for word in TRAIN if word != "--quiet"]
    assert main([*words, "--compile", "--out", str(tmp_path)]) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert first == "resnet8-seed0: compiling the network; this takes minutes at 164 layers"
    assert last.startswith("deepprobe: --compile: torch could not compile the network (OSError: no compiler here); ")
    shutil.rmtree(tmp_path / "resnet8-seed0")
