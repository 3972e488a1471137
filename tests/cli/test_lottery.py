"""``deepprobe lottery`` and ``deepprobe ticket``, end to end on a few digits, and everything that must be refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import deepprobe as dp
from deepprobe.cli import main
from deepprobe.cli.lottery import LotteryOptions, options_from
from deepprobe.cli.options import parse
from deepprobe.errors import DeepprobeError

SMALL = [
    "lenet300_100", "--limit", "200", "--epochs", "2", "--optimizer", "adam", "--lr", "1.2e-3", "--probe-samples", "0",
    "--model-options", "activation=tanh",
]  # fmt: skip
ASKED = [
    *SMALL,
    "--rounds",
    "2",
    "--prune",
    "20%",
    "--rewind",
    "1it",
    "--controls",
    "reinit,random-mask",
    "--seeds",
    "2",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of two rounds, two controls and two seeds."""
    out = tmp_path_factory.mktemp("lottery") / "RUN"
    assert main(["lottery", *ASKED, "--out", str(out), "--quiet"]) == 0
    return out


def refused(words: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 2) -> str:
    """The one line in which words are refused, before anything is trained or written."""
    try:
        assert main(["lottery", *words, "--out", "nowhere/at/all"]) == code
    except SystemExit as stop:  # pragma: no cover - main turns these into codes
        pytest.fail(str(stop))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1, shown.err
    assert not Path("nowhere").exists()
    return shown.err.strip().partition(": ")[2]


def test_the_command_of_the_issue_means_what_it_says() -> None:
    line = (
        "resnet20 --data cifar10 --rounds 12 --prune 20% --rewind 500it --controls reinit,random-mask --seeds 3 --out R"
    )
    options, (trial,) = options_from(line.split())
    config = trial.config
    assert (trial.model, trial.path, options.data) == ("resnet20", Path("R"), "cifar10")
    assert (config.rounds, config.prune, config.rewind) == (12, 0.2, "500it")
    assert (config.controls, config.seeds) == (("reinit", "random-mask"), (0, 1, 2))


def test_words_and_a_file_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(
        'models = ["lenet5"]\nprune = 0.1\nseeds = 2\ncontrols = ["reinit", "sibling"]\ncontrol-rounds = [1, 2]\n'
        'allocation = "layerwise"\nrates = "output=50%"\nepochs = 3\n',
        encoding="utf-8",
    )
    words = "lenet5 --prune 10% --seeds 0 1 --controls reinit sibling --control-rounds 1,2 --allocation layerwise"
    _, (from_file,) = options_from(["--config", str(file)])
    _, (from_words,) = options_from([*words.split(), "--rates", "output=0.5", "--epochs", "3"])
    assert from_file == from_words
    _, (mixed,) = options_from(["--config", str(file), "--prune", "0.3"])
    assert (mixed.config.prune, mixed.config.seeds) == (0.3, (0, 1))


LOTTERIES = sorted((Path(__file__).parents[2] / "analyses" / "recipes").glob("*lottery*.toml"))


@pytest.mark.parametrize("path", LOTTERIES, ids=lambda path: path.stem)
def test_every_recipe_is_understood(path: Path) -> None:
    options, found = options_from(["--config", str(path)])
    assert [trial.model for trial in found] == list(options.models)
    assert options.out.parent == Path("runs")


def test_models_and_shares_make_an_experiment_each() -> None:
    _, several = options_from(["lenet5", "resnet8", "--prune", "20%,12.5%", "--out", "sweep"])
    assert [(t.model, t.path.as_posix(), t.config.prune) for t in several] == [
        ("lenet5", "sweep/lenet5-prune20", 0.2),
        ("lenet5", "sweep/lenet5-prune12.5", 0.125),
        ("resnet8", "sweep/resnet8-prune20", 0.2),
        ("resnet8", "sweep/resnet8-prune12.5", 0.125),
    ]
    _, dense = options_from(["lenet5", "resnet8", "--densities", "50%", "20%", "--out", "sweep"])
    assert [t.path.as_posix() for t in dense] == ["sweep/lenet5", "sweep/resnet8"]
    assert dense[0].config.densities == (0.5, 0.2)


def test_a_dry_run_shows_the_plan_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = [*ASKED, "--controls", "reinit", "dense", "--control-rounds", "2", "--out", str(out), "--dry-run"]
    assert main(["lottery", *words]) == 0
    assert not out.exists()
    n = 64 * 300 + 300 * 100 + 100 * 10
    per_epoch = 3  # 180 images, 64 at a time
    # two seeds; ticket: 3 trainings, two of them from step 1; reinit from the start; dense as long as 3 trainings
    updates = 2 * ((2 * per_epoch) * 3 - 2 + 2 * per_epoch + 3 * 2 * per_epoch)
    assert capsys.readouterr().out.splitlines() == [
        f"{out}: lenet300_100, {n:,} prunable weights, seeds 0, 1",
        "  round   density       weights  trained",
        f"      0  100.000%        {n:,}  ticket",
        f"      1   80.000%        {round(n * 0.8):,}  ticket",
        f"      2   64.000%        {round(n * 0.64):,}  ticket, reinit, dense",
        f"  10 trainings, {updates} updates in all",
    ]


def test_the_plan_is_what_is_trained(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lottery", *ASKED, "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    experiment = dp.runs.open_experiment(folder)
    steps = experiment.records().groupby("run")["step"].max()
    begins = (
        experiment.runs()
        .set_index("run")
        .apply(lambda row: 0 if row["round"] == 0 or row["branch"] == "reinit" else 1, axis=1)
    )
    assert last == f"  {len(steps)} trainings, {(steps - begins).sum()} updates in all"


def test_an_experiment_is_made(folder: Path) -> None:
    runs = dp.runs.open_experiment(folder).runs()
    assert len(runs) == 2 * (3 + 2 + 2)
    assert set(runs["status"]) == {"complete"}
    assert runs[runs["branch"] == "ticket"]["n_kept"].tolist() == [50_200, 40_160, 32_128] * 2
    run = dp.open_run(folder / "seed1-round02-reinit")
    assert run.config["data"]["name"] == "digits"
    assert run.config["model"]["activation"] == "tanh"


def test_again_skips_what_is_there_and_says_what_came_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.sqlite")}
    assert main(["lottery", *ASKED, "--out", str(folder)]) == 0
    shown = capsys.readouterr()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.sqlite")} == before
    assert "kept, complete" not in shown.err
    rows = [line.split()[:4] for line in shown.out.splitlines() if line.strip().endswith("%")]
    assert [row[:3] for row in rows[-3:]] == [["2", "ticket", "2"], ["2", "random-mask", "2"], ["2", "reinit", "2"]]
    assert rows[-1][3] == "64.00%"


def test_another_setting_is_another_experiment(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lottery", *ASKED, "--out", str(folder), "--lr", "0.5"]) == 1
    line = capsys.readouterr().err
    assert "holds an experiment of another configuration" in line
    assert "lr" in line


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    words = [
        "lottery",
        "lenet300_100",
        "--epochs",
        "100000",
        "--rounds",
        "1",
        "--out",
        "RUN",
        "--checkpoint-every",
        "1it",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "deepprobe", *words], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    begun = tmp_path / "RUN" / "seed0-round00-ticket" / "checkpoints"
    for _ in range(2400):
        if process.poll() is not None or list(begun.glob("*.pt")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.splitlines()[-1].startswith("deepprobe: stopped at step ")
    assert told.splitlines()[-1].endswith(f"to go on: deepprobe {' '.join(words)}")
    assert "Traceback" not in told


def test_ctrl_c_before_the_first_training_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deepprobe.cli.lottery.tasks_of", stopped)
    words = ["lottery", *SMALL, "--rounds", "1", "--out", str(tmp_path / "RUN")]
    assert main(words) == 130
    assert capsys.readouterr().err == f"deepprobe: interrupted; to go on: deepprobe {' '.join(words)}\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--prune", "20"],
            "--prune 20: a share lies between 0 and 1 (0% and 100%) and is neither; for 20 percent wri",
        ),
        (["--prune", "0"], "--prune 0: a share lies between 0 and 1 (0% and 100%) and is neither"),
        (["--prune", "100%"], "--prune 100%: a share lies between 0 and 1 (0% and 100%) and is neither"),
        (["--prune=-20%"], "--prune -20%: a share lies between 0 and 1 (0% and 100%) and is neither"),
        (["--prune", "nan"], "--prune 'nan' is no share; write it as 20% or 0.2"),
        (["--prune", "1/5"], "--prune '1/5' is no share; write it as 20% or 0.2"),
        (["--densities", "20%", "50%"], "--densities "),
        (["--densities", "20%", "--rounds", "3"], "--rounds: --densities says what each round leaves; give one or the"),
        (["--criterion", "magnitud"], "--criterion 'magnitud': there is no such criterion; did you mean 'magnitude'"),
        (
            ["--controls", "reinit,rand"],
            "--controls 'rand': Input should be 'reinit', 'random-mask', 'shuffled-mask', ",
        ),
        (["--control-rounds", "13", "--controls", "dense"], "--control-rounds (13,): there are rounds 1 … 12"),
        (["--control-rounds", "x", "--controls", "dense"], "--control-rounds x: write a whole number from 0 to 1,000"),
        (["--protect", "classifier.fc9"], "--protect: 'classifier.fc9' matches no layer with prunable weights; there "),
        (["--protect", "*"], "--protect ['*'] covers every layer of SmallNet: nothing can be pruned"),
        (["--rates", "output"], "--rates 'output': write LAYER=FACTOR, for example output=0.5"),
        (["--rates", "output=0.5"], "--rates {'output': 0.5}: rates of layers need --allocation 'layerwise'"),
        (["--rewind", "500"], "--rewind '500': write 'init', a step such as '500it' or '2ep', 'lr', 'lr:2ep', 'fine-t"),
        (["--rewind", "10ep"], "--rewind 10ep: training ends after 10ep, which is 210it; go back to an earlier point"),
        (
            ["--rewind", "fine-tune"],
            "--rewind 'fine-tune' goes on at the last learning rate of the schedule, and that ",
        ),
        (["--seeds", "0"], "--seeds 0: write a whole number from 1 to 10,000"),
        (["--seeds", "1", "-1"], "--seeds -1: write a whole number from 0 to 2,147,483,647"),
        (["--evaluate-every", "banana"], "--evaluate-every 'banana' is no schedule; write it as '1ep'"),
        (["--early-bird-every", "banana"], "--early-bird-every 'banana' is no schedule; write it as '1ep'"),
        (["--pruning", "gradual", "--gradual", "1ep"], "--gradual '1ep' is no schedule of gradual pruning; write it "),
        (["--control-rounds", "1"], "--control-rounds 1: there are none without --controls"),
        (["--rounds", "100"], "--rounds: of 50,200 weights none is left after round 51; take at most so many"),
        (["--densities", "50%", "0.0001%"], "--densities: of 50,200 weights none is left after round 1; take at most"),
        (["--dry-run", "--engine-options", "n_workers=0"], "--engine-options n_workers=0: n_workers=0"),
        (["--micro-batches", "65"], "--micro-batches 65: must be at most --batch-size 64"),
        (["--rounds", "0"], "--rounds 0: input should be greater than or equal to 1"),
        (["--engine-options", "workers=2"], "--engine-options: the engine local has no 'workers'; did you mean 'n_wor"),
        (["--engine-options", "n_workers=0"], "--engine-options n_workers=0: n_workers=0"),
        (
            ["--pruning", "gradual", "--gradual", "1ep..11ep/5it"],
            "gradual pruning ends at step 231 (11ep), and training",
        ),
        (["--pruning", "gradual"], "--pruning 'gradual', --gradual '': "),
    ],
)
def test_mistakes(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(["lenet300_100", *words], capsys).startswith(line)


def test_mistakes_in_the_last_of_several_are_told_before_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["lenet300_100", "resnt20"], capsys, code=1)
    assert line.startswith("no model 'resnt20'; did you mean 'resnet20'")
    assert refused([], capsys) == "no model was named; write deepprobe lottery MODEL …, and see deepprobe models"


def test_options_are_parsed_alone() -> None:
    options = parse(LotteryOptions, ["lenet5", "--prune", "20%", "0.1", "--controls", "reinit,"], verb="lottery")
    assert (options.prune, options.controls, options.seeds) == (("20%", "0.1"), ("reinit",), ("1",))


def test_a_missing_engine_says_which_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for engine, package in (("ray", "ray"), ("slurm", "submitit")):
        monkeypatch.setitem(sys.modules, package, None)
        line = refused(["lenet300_100", "--rounds", "1", "--engine", engine, "--quiet"], capsys, code=1)
        assert line.endswith(f"install it with: pip install 'deepprobe[{engine}]'")


def test_several_processes_make_the_same_bits(folder: Path, tmp_path: Path) -> None:
    words = [*SMALL, "--rounds", "1", "--rewind", "1it", "--seeds", "2", "--threads", "1", "--quiet"]
    assert main(["lottery", *words, "--out", str(tmp_path / "RUN"), "--engine-options", "n_workers=2"]) == 0
    for name in ("seed0-round01-ticket", "seed1-round01-ticket"):
        one, other = (_last_weights(where / name) for where in (folder, tmp_path / "RUN"))
        assert all(torch.equal(one[key], other[key]) for key in one)


def _last_weights(path: Path) -> dict[str, torch.Tensor]:
    """Weights at the end of a run."""
    run = dp.open_run(path)
    return dp.training.load_checkpoint(run.check(run.files("checkpoints")[-1])).weights


def test_a_ticket_is_a_file_for_plain_pytorch(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "ticket.safetensors"
    words = ["ticket", str(folder), "--seed", "1", "--round", "2", "--to", str(to)]
    assert main(words) == 0
    assert capsys.readouterr().out == f"ticket of round 2, seed 1, weights before training: {to}\n"
    network = dp.create_model("lenet300_100", in_channels=1, input_size=8, activation="tanh", seed=5)
    network.load_state_dict({key: value for key, value in load_file(to).items() if key in network.state_dict()})
    mask = dp.runs.open_experiment(folder).masks("seed1-round02-ticket")["classifier.fc1.weight"]
    assert torch.equal(network.get_parameter("classifier.fc1.weight") != 0, torch.from_numpy(mask))
    assert main([*words, "--trained", "--quiet"]) == 0
    trained, last = load_file(to), _last_weights(folder / "seed1-round02-ticket")
    assert all(torch.equal(trained[key], last[key]) for key in last)


@pytest.mark.parametrize(
    "words", [["--round", "9"], ["--round", "1", "--seed", "7"], ["--round", "1", "--branch", "x"]]
)
def test_tickets_that_are_not_there(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ticket", str(folder), *words, "--to", "nowhere.safetensors"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path("nowhere.safetensors").exists()


def test_a_report_of_an_experiment(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "lottery.html"
    assert main(["report", str(folder), "--html", str(page), "--title", "Tickets <b>"]) == 0
    assert capsys.readouterr().out == f"report of an experiment of 14 runs: {page}\n"
    assert "Tickets &lt;b&gt;" in page.read_text(encoding="utf-8")
    assert main(["report", str(folder), str(folder / "seed0-round00-ticket"), "--html", str(page)]) == 2
    assert "is an experiment, which has a page of its own; name it alone" in capsys.readouterr().err


def test_a_ticket_of_what_is_no_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DeepprobeError):
        dp.runs.open_experiment(tmp_path)
    assert main(["ticket", str(tmp_path), "--round", "1"]) == 1
    assert "is no experiment" in capsys.readouterr().err
