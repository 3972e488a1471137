"""Trackers, against the real packages: written here, then read back with each package's own reader."""

from __future__ import annotations

import json
import math
import struct
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from deepprobe.errors import MissingPackageError
from deepprobe.integrations import ProbeCallback
from deepprobe.integrations.trackers import TRACKERS, MLflowTracker, TensorBoardTracker, WandbTracker
from deepprobe.integrations.trackers.scalars import clean, scalars, settings
from deepprobe.records.frame import TIDY
from deepprobe.training import TrainConfig, at, train

CONFIG = {"model": {"name": "plainnet20", "options": {"norm": None}}, "training": {"lr": 0.1, "milestones": [0.5]}}


def numbers(step, split="train", **values):
    """Rows that are of no layer."""
    rows = [{"step": step, "split": split, "measure": m, "value": v} for m, v in values.items()]
    return pd.DataFrame(rows, columns=list(TIDY))


def of_layer(step, layer, measure, value, **more):
    """One row of a layer."""
    row = {"step": step, "split": "probe", "layer": layer, "measure": measure, "value": value, "call": 1}
    row |= {"tap": "block", "view": "samples", "centred": False} | more
    return pd.DataFrame([row], columns=list(TIDY))


SENT = (
    numbers(0, loss=2.5),
    numbers(0, "test", accuracy=0.1),
    of_layer(4, "features.stage1.0", "condition_number_live", 1e3),
    of_layer(4, "features.stage1.1", "condition_number_live", math.inf),
    of_layer(4, "lstm[0]", "condition_number_live", math.nan, call=2),
    of_layer(4, "conv", "gradient_norm", 0.25, tap=None, view=None),
    of_layer(4, "conv", "sigma_max", 7.0),
    of_layer(4, "conv", "condition_number_live", 8.0, centred=True),
    numbers(4, loss=1.5),
)
EXPECTED = {
    "train/loss": [(0, 2.5), (4, 1.5)],
    "test/accuracy": [(0, 0.1)],
    "condition_number_live/block/samples/features.stage1.0": [(4, 1e3)],
    "condition_number_live/block/samples/features.stage1.1": [(4, math.inf)],
    f"condition_number_live/block/samples/{clean('lstm[0]')}/call2": [(4, math.nan)],
    "gradient_norm/conv": [(4, 0.25)],
}


def follow(tracker, frames, *, status="complete", name="run"):
    """All three verbs."""
    tracker.start(name, CONFIG)
    for frame in frames:
        tracker.log(frame)
    tracker.finish(status)


def same(found, expected, *, infinity=math.inf, rel=1e-6):
    """Whether histories agree; NaN equals NaN."""
    assert found.keys() == expected.keys()
    for name, history in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in history], name
        values = [infinity if math.isinf(v) else v for _, v in history]
        assert [v for _, v in found[name]] == pytest.approx(values, rel=rel, nan_ok=True), name


def events(folder):
    """Scalars and texts of a folder, by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    texts = {t: read.Tensors(t)[-1].tensor_proto.string_val[0].decode() for t in read.Tags()["tensors"]}
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}, texts


def mlflow_runs(folder, names=None):
    """Runs in a folder and the histories of their metrics, all or these, by MLflow's own client."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("deepprobe").experiment_id])
    histories = [
        {
            name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
            for name in names or run.data.metrics
        }
        for run in runs
    ]
    return runs, histories


def wandb_files(folder):
    """Files of runs, oldest first, once W&B's own process, which writes them, has ended."""
    import wandb

    wandb.teardown()
    return sorted((folder / "wandb").glob("offline-run-*/*.wandb"))


def wandb_records(path):
    """Records of a .wandb file (blocks of 32 KiB as in LevelDB's log), by W&B's own message types."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    assert content[:4] == b":W&B"
    at, parts, records = 7, b"", []
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in {1, 4}:  # whole, or the last part
            records.append(Record.FromString(parts))
            parts = b""
    return records


def wandb_history(records):
    """Histories of all scalars, without those that W&B adds."""
    found = {}
    for record in records:
        if record.WhichOneof("record_type") != "history":
            continue
        for item in record.history.item:
            name = item.key or item.nested_key[0]
            if not name.startswith("_"):
                found.setdefault(name, []).append((record.history.step.num, json.loads(item.value_json)))
    return found


def test_names_and_selection():
    found = scalars(pd.concat(SENT), layer_measures=("sigma_max", "centred_condition_number_live"))
    assert found == {
        0: {"train/loss": 2.5, "test/accuracy": 0.1},
        4: {"sigma_max/block/samples/conv": 7.0, "centred_condition_number_live/block/samples/conv": 8.0,
            "train/loss": 1.5},
    }  # fmt: skip


@pytest.mark.parametrize("text", ["a/b", "..", ".", "é", "<script>", "a b", "conv#2", "x" * 500, "=1+1", "a\0b", " "])
def test_every_name_becomes_one_that_every_tracker_takes(text):
    from mlflow.utils.validation import _validate_metric_name

    made = clean(text)
    _validate_metric_name(f"condition_number_live/block/samples/{made}/call2")
    assert len({made, clean(text + "x"), clean(text + "y")}) == 3
    assert clean(made) == made


def test_nested_settings_become_dotted_text():
    assert settings(CONFIG) == {
        "model.name": "plainnet20", "model.options.norm": "null", "training.lr": "0.1", "training.milestones": "[0.5]",
    }  # fmt: skip


def test_tensorboard_holds_what_was_sent(tmp_path):
    follow(TensorBoardTracker(tmp_path), SENT, name="deep run")
    (folder,) = tmp_path.iterdir()
    found, texts = events(folder)
    same(found, EXPECTED)
    assert '"plainnet20"' in texts["config/text_summary"]
    assert texts["status/text_summary"] == "complete"


@pytest.mark.parametrize("value", [1e300, -1e300, 1e-300])
def test_tensorboard_rounds_to_float32(tmp_path, value):
    follow(TensorBoardTracker(tmp_path), [numbers(1, loss=value)])
    with np.errstate(over="ignore", under="ignore"):
        assert events(tmp_path / "run")[0]["train/loss"] == [(1, float(np.float32(value)))]


def test_tensorboard_takes_back_what_a_resumed_run_does_again(tmp_path):
    first = [numbers(step, loss=float(step)) for step in (1, 2, 3, 4)]
    follow(TensorBoardTracker(tmp_path), first, status="interrupted")
    follow(TensorBoardTracker(tmp_path), [numbers(step, loss=-float(step)) for step in (3, 4, 5)])
    found, texts = events(tmp_path / "run")
    assert found["train/loss"] == [(1, 1.0), (2, 2.0), (3, -3.0), (4, -4.0), (5, -5.0)]
    assert texts["status/text_summary"] == "complete"


def test_mlflow_holds_what_was_sent(tmp_path, capfd):
    follow(MLflowTracker(tmp_path / "new"), SENT)
    (run,), (history,) = mlflow_runs(tmp_path / "new")
    same(history, EXPECTED, infinity=sys.float_info.max)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.tags["deepprobe_status"] == "complete"
    assert run.data.params == settings(CONFIG)
    assert run.info.artifact_uri.startswith((tmp_path / "new").as_uri())
    assert capfd.readouterr() == ("", "")


def test_mlflow_goes_on_with_a_run_that_did_not_end_well(tmp_path):
    follow(MLflowTracker(tmp_path), [numbers(step, loss=float(step)) for step in (1, 2, 3)], status="interrupted")
    runs, _ = mlflow_runs(tmp_path)
    assert [run.info.status for run in runs] == ["KILLED"]
    follow(MLflowTracker(tmp_path), [numbers(step, loss=float(step), accuracy=0.5) for step in (2, 3, 4)])
    (run,), (history,) = mlflow_runs(tmp_path)
    assert history == {
        "train/loss": [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)],
        "train/accuracy": [(2, 0.5), (3, 0.5), (4, 0.5)],
    }
    assert run.info.status == "FINISHED"
    follow(MLflowTracker(tmp_path), [numbers(1, loss=1.0)], status="diverged")
    runs, _ = mlflow_runs(tmp_path)
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED"]


def test_mlflow_takes_a_thousand_layers_at_once(tmp_path):
    frame = pd.concat([of_layer(1, f"layer{i}", "effective_rank", float(i)) for i in range(1202)])
    follow(MLflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}"), [frame])
    last = "effective_rank/block/samples/layer1201"
    (run,), (history,) = mlflow_runs(tmp_path, [last])
    assert len(run.data.metrics) == 1202
    assert history == {last: [(1, 1201.0)]}


def test_wandb_holds_what_was_sent(tmp_path, capfd):
    follow(WandbTracker(tmp_path / "new"), SENT)
    (file,) = wandb_files(tmp_path / "new")
    records = wandb_records(file)
    same(wandb_history(records), EXPECTED)
    start = next(r.run for r in records if r.WhichOneof("record_type") == "run")
    config = {item.key: json.loads(item.value_json) for item in start.config.update}
    assert (start.project, start.display_name) == ("deepprobe", "run")
    assert {key: config[key] for key in CONFIG} == CONFIG
    assert [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"] == [0]
    assert capfd.readouterr() == ("", "")


def test_wandb_goes_on_under_the_same_id_beside_a_run_of_the_user(tmp_path):
    import wandb

    quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True)
    own = wandb.init(project="mine", mode="offline", dir=str(tmp_path), id="mine", settings=quiet)
    follow(WandbTracker(tmp_path), [numbers(1, loss=1.0)], status="interrupted")
    follow(WandbTracker(tmp_path), [numbers(2, loss=2.0)])
    assert wandb.run is own
    own.finish()
    files = [file for file in wandb_files(tmp_path) if file.stem != "run-mine"]
    found = [wandb_records(file) for file in files]
    ids = {r.run.run_id for records in found for r in records if r.WhichOneof("record_type") == "run"}
    assert len(ids) == 1
    histories = [wandb_history(records) for records in found]
    assert sorted(history["train/loss"][0] for history in histories) == [(1, 1.0), (2, 2.0)]


def test_training_is_followed_by_all_three(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 4))
    data = torch.randn(100, 1, 8, 8), torch.randint(0, 4, (100,))
    config = TrainConfig(epochs=2, batch_size=50, validation_share=0.2)
    trackers = [tracker(tmp_path / name) for name, tracker in sorted(TRACKERS.items())]
    run = train(model, data, config=config, callbacks=[at("4it")(ProbeCallback())], trackers=trackers, quiet=True)
    kept = run.records().query("layer.notna() and measure == 'effective_rank' and centred == False")
    (folder,) = (tmp_path / "tensorboard").iterdir()
    by_tracker = [events(folder)[0], mlflow_runs(tmp_path / "mlflow")[1][0]]
    by_tracker.append(wandb_history(wandb_records(wandb_files(tmp_path / "wandb")[0])))
    for found in by_tracker:
        assert len(found["train/loss"]) == len(found["validation/accuracy"]) == 2
        for row in kept.itertuples():
            name = f"effective_rank/{row.tap}/{row.view}/{row.layer}"
            assert found[name] == [(4, pytest.approx(row.value, rel=1e-6))]


@pytest.mark.parametrize(
    ("tracker", "module", "extra"),
    [("tensorboard", "torch.utils.tensorboard", "tensorboard"), ("mlflow", "mlflow.tracking", "trackers"),
     ("wandb", "wandb", "trackers")],
)  # fmt: skip
def test_a_missing_package_is_told_with_the_extra_that_brings_it(tmp_path, monkeypatch, tracker, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError) as error:
        TRACKERS[tracker](tmp_path)
    assert str(error.value) == (
        f"{module} cannot be imported (import of {module} halted; None in sys.modules); "
        f"install it with: pip install 'deepprobe[{extra}]'"
    )
    assert not any(tmp_path.iterdir())
