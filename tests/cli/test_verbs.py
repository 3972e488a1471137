"""The verbs, end to end, on a few digits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import deepprobe as dp
from deepprobe.cli import main
from deepprobe.training import save_checkpoint

TRAIN = ["train", "resnet8", "--limit", "200", "--epochs", "2", "--probe-samples", "32", "--rows", "all"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of resnet8, the first with probes."""
    out = tmp_path_factory.mktemp("runs")
    words = [*TRAIN, "--seeds", "0", "1", "--probe-every", "1ep", "--probe-seeds", "0", "--out", str(out), "--quiet"]
    assert main(words) == 0
    return out


def complaint(words: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 1) -> str:
    """The one line that a mistake is told in."""
    assert main(words) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    return shown.err.strip()


def test_models_lists_what_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "*164"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == dp.list_models("*164")
    assert all("depth   164" in line for line in lines)
    assert "2,602,906 parameters" in lines[0]


def test_models_that_match_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(["models", "resnt20"], capsys).startswith("deepprobe: no model is named 'resnt20'; did you mean ")


def test_train_writes_runs(folder: Path) -> None:
    runs = dp.list_runs(folder)
    assert runs["name"].tolist() == ["resnet8-seed0", "resnet8-seed1"]
    assert runs["status"].tolist() == ["complete", "complete"]
    assert runs["data"].tolist() == ["digits", "digits"]
    probed = dp.open_run(folder / "resnet8-seed0")
    assert len(probed.steps_probed()) == 3  # untrained, after one epoch, after two
    assert set(probed.layers()["n_rows"][probed.layers()["view"] == "samples"]) == {32}
    assert dp.open_run(folder / "resnet8-seed1").steps_probed() == []


def test_train_measures_what_is_asked_for(tmp_path: Path) -> None:
    words = ["train", "resnet8", "--limit", "64", "--epochs", "1", "--probe-samples", "16", "--out", str(tmp_path)]
    measures = ["--measure", "weights", "updates", "gradients", "in-flight"]
    assert main([*words, "--probe-every", "at 0it,1it", *measures, "--track", "tensorboard", "--quiet"]) == 0
    records = dp.open_run(tmp_path / "resnet8-seed0").records()
    found = {step: set(part["tap"].dropna()) for step, part in records.groupby("step")}
    assert found == {0: {"gradient", "weight"}, 1: {"gradient", "weight", "update", "input"}}
    assert list((tmp_path / "tensorboard" / "resnet8-seed0").glob("events.*"))


def test_units_and_jacobians_stand_in_the_run_and_in_its_report(tmp_path: Path) -> None:
    words = ["train", "resnet8", "--limit", "64", "--epochs", "1", "--probe-samples", "16", "--out", str(tmp_path)]
    assert main([*words, "--probe-every", "at 1it", "--measure", "units", "jacobians", "--quiet"]) == 0
    run = dp.open_run(tmp_path / "resnet8-seed0")
    units = run.units()
    assert set(units["tap"]) == {"input"}
    assert len(units) == units.drop_duplicates("layer")["n_features"].sum()
    assert run.layers()["jacobian_norm"].notna().sum() == 1  # that of the whole network, in the row of the input
    assert dp.write_report(run, tmp_path / "report.html").stat().st_size > 10_000


def test_torchrun_trains_in_two_processes_and_one_speaks(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*TRAIN[:2], "--limit", "128", "--epochs", "1", "--seeds", "0", "1", "--out", str(tmp_path)]
    done = subprocess.run(
        [*torchrun, "-m", "deepprobe", *words], capture_output=True, text=True, timeout=240, check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"resnet8-seed{s}: complete" for s in (0, 1)]
    assert done.stderr.count("epoch 1: loss") == 2
    assert dp.list_runs(tmp_path)["status"].tolist() == ["complete", "complete"]


def test_training_again_skips_what_is_complete(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "resnet8-seed1" / "records.sqlite").read_bytes()
    words = [*TRAIN, "--seeds", "1", "--probe-every", "1ep", "--probe-seeds", "0", "--out", str(folder)]
    line = complaint([*words, "--lr", "0.5"], capsys)
    assert "of another configuration (--lr: 0.02 in the folder, 0.5 asked for); choose another --out" in line
    line = complaint([*words, "--no-deterministic", "--model-options", "shortcut=B"], capsys)
    assert "--model-options: none in the folder, shortcut=B asked for; --deterministic: True in the folder, F" in line
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("resnet8-seed1: complete, test accuracy ")
    assert (folder / "resnet8-seed1" / "records.sqlite").read_bytes() == before


def test_train_tells_a_wrong_model_before_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "resnet8", "resnt20", "--out", str(tmp_path / "runs")]
    assert complaint(words, capsys).startswith("deepprobe: no model 'resnt20'; did you mean 'resnet20'")
    assert not (tmp_path / "runs").exists()


def test_missing_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(["train", "resnet8", "--data", "mnist", "--data-dir", str(tmp_path)], capsys)
    assert line.startswith(f"deepprobe: the files of mnist (train) are not in {tmp_path} (from data_dir)")
    assert "train-images-idx3-ubyte" in line


def test_a_diverging_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "plainnet20", "--limit", "200", "--epochs", "3", "--lr", "1e6", "--schedule", "constant"]
    assert main([*words, "--model-options", "batch_norm=false", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("plainnet20-seed0: diverged, test accuracy ")


def test_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(folder)]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["name", "status", "model", "data", "seed", "epochs", "test_accuracy"]
    assert [line.split()[-2] for line in lines] == ["2.00", "2.00"]
    assert [line.split()[:3] for line in lines] == [[f"resnet8-seed{s}", "complete", "resnet8"] for s in (0, 1)]


def test_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(["runs", str(tmp_path)], capsys)
    assert line == f"deepprobe: there is no run in {tmp_path} yet; runs are written by deepprobe train with --out"
    (tmp_path / "experiment.json").touch()
    assert complaint(["runs", str(tmp_path)], capsys).endswith("runs are written by deepprobe lottery with --out")
    assert "there is no folder" in complaint(["report", str(tmp_path / "none")], capsys)


def test_report(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "new" / "report.html"
    assert main(["report", str(folder), "--html", str(page), "--title", "Two <b> seeds"]) == 0
    assert capsys.readouterr().out == f"report of 2 runs: {page}\n"
    text = page.read_text(encoding="utf-8")
    assert "Two &lt;b&gt; seeds" in text
    assert "features.stage2.0" in text


def test_probe_agrees_with_the_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "layers.csv", tmp_path / "report.html"
    words = ["probe", "resnet8", "--samples", "64", "--tap", "input", "--view", "channels", "--seed", "3"]
    assert main([*words, "--out", str(out), "--html", str(page), "--batch-size", "40"]) == 0
    assert capsys.readouterr().out == f"8 layer calls: {out}, {page}\n"
    images = dp.load_dataset("digits", split="test").take(64)
    model = dp.create_model("resnet8", num_classes=10, in_channels=1, input_size=8, seed=3)
    expected = dp.condition_numbers(model, [images.tensors()[0]], tap="input", view="channels")
    found = pd.read_csv(out)
    assert found["layer"].tolist() == expected["layer"].tolist()
    np.testing.assert_allclose(found["sigma_max"], expected["sigma_max"], rtol=1e-12)
    assert "<html" in page.read_text(encoding="utf-8")


def test_probe_prints_without_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "lenet5", "--samples", "32", "--input-size", "28"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split()[:2] == ["depth", "layer"]
    assert len(shown) == 1 + 2 * 5  # five weighted layers, outputs (there are no blocks) and inputs


def test_probe_gives_errors_and_a_null_where_a_view_has_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["probe", "resnet8", "--samples", "64", "--error-groups", "8", "--shuffled-null"]
    views = ["--tap", "block", "input", "input", "--view", "samples", "channels", "tokens"]
    out = tmp_path / "layers.csv"
    assert main([*words, *views, "--out", str(out), "--quiet"]) == 0
    found = pd.read_csv(out).groupby("view")[["centred_condition_number_se", "centred_condition_number_shuffled"]]
    assert found.count().gt(0).to_numpy().tolist() == [[True, True], [False, False], [True, False]]
    assert main([*words, "--tap", "input", "--view", "pooled"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[-2:] == ["condition_number_se", "condition_number_shuffled"]
    assert complaint([*words, "--tap", "input", "--view", "samples", "hosvd1"], capsys, code=2).startswith(
        "deepprobe: "
    )


def test_probe_takes_a_run_and_its_weights(folder: Path, tmp_path: Path) -> None:
    run = folder / "resnet8-seed0"
    out, same = tmp_path / "a.csv", tmp_path / "b.csv"
    weights = sorted((run / "checkpoints").iterdir())[-1]
    rest = ["--samples", "32", "--quiet"]
    assert main(["probe", str(run), "--out", str(out), *rest]) == 0
    assert main(["probe", "resnet8", "--weights", str(weights), "--out", str(same), *rest]) == 0
    assert out.read_bytes() == same.read_bytes()
    last = dp.open_run(run).layers()
    last = last[(last["step"] == last["step"].max()) & last["tap"].isin(["block", "input"])]
    np.testing.assert_allclose(pd.read_csv(out)["sigma_max"], last["sigma_max"], rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["resnt20"], 1, "deepprobe: no model 'resnt20'; did you mean 'resnet20'"),
        (["none/weights.pt"], 1, "deepprobe: there is no checkpoint none/weights.pt"),
        (["resnet8", "--layers", "stages.*"], 1, "deepprobe: layers='stages.*' matches nothing; the model has "),
        (["resnet8", "--tap", "block", "input", "output"], 2, "deepprobe: ProbeCallback(tap="),
        (["resnet8", "--model-options", "shortct=B"], 2, "deepprobe: resnet8 has no option 'shortct'; did you mean "),
    ],
)  # fmt: skip
def test_mistakes_in_probe(words: list[str], code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(["probe", *words, "--quiet"], capsys, code=code).startswith(line)


def test_images_that_do_not_fit_the_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "weights.pt"
    save_checkpoint(weights, dp.create_model("lenet5", input_size=28))
    line = complaint(["probe", str(weights), "--samples", "8"], capsys)
    assert line.startswith(f"deepprobe: {weights} does not take images of shape (1, 8, 8): ")


def test_foreign_weights(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / "bare.pt"
    torch.save(dp.create_model("resnet8", in_channels=1, input_size=8).state_dict(), bare)
    line = complaint(["probe", str(bare)], capsys)
    assert line == f"deepprobe: {bare} does not name its network: name it, and give the file as its --weights"
    assert main(["probe", "resnet8", "--weights", str(bare), "--samples", "16"]) == 0
    capsys.readouterr()
    assert "are not those of this" in complaint(["probe", "resnet14", "--weights", str(bare)], capsys)
    line = complaint(["probe", str(folder / "resnet8-seed0"), "--weights", str(bare)], capsys, code=2)
    assert line.endswith("has weights of its own")


def test_a_device_that_is_not_here_and_options_of_a_run_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = complaint(["probe", "resnet8", "--device", "cuda:77"], capsys, code=2)
    assert "device='cuda:77': torch sees" in line
    assert "--device no-such-thing: " in complaint(["diagnose", "resnet8", "--device", "no-such-thing"], capsys, code=2)
    words = ["probe", str(folder / "resnet8-seed0"), "--model-options", "shortcut=B"]
    assert "--model-options 'shortcut=B': " in complaint(words, capsys, code=2)
