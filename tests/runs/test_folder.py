"""Folders of runs: made, opened, listed, refused."""

from __future__ import annotations

import json
import multiprocessing
import os

import pytest

from deepprobe.errors import RunError
from deepprobe.runs import create_run, list_runs, open_run


def test_a_run_opens_with_what_it_was_made_of(run, config):
    again = open_run(run.path)
    assert (again.name, again.config, again.provenance) == ("a", config, {"torch": "2.13", "threads": 1})
    assert again.status == "running"


def test_the_same_configuration_opens_the_run_that_is_there(run, make):
    assert len(make().records()) == len(run.records())


def test_another_configuration_is_refused_with_the_difference(run, make):
    with pytest.raises(RunError) as error:
        make(training={"seed": 3, "lr": 0.2, "clip": 1.0})
    assert str(error.value) == (
        f"{run.path} holds a run of another configuration (training.clip: default in the folder, 1.0 asked for; "
        "training.lr: 0.1 in the folder, 0.2 asked for); choose another folder or name"
    )


def test_the_identity_alone_decides(tmp_path):
    first = {"config": {"lr": 0.1, "device": "cpu"}, "identity": {"lr": 0.1}, "provenance": {}}
    create_run(tmp_path, name="a", **first)
    assert create_run(tmp_path, name="a", **first | {"config": {"lr": 0.1, "device": "cuda"}}).config["device"] == "cpu"


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("")
    with pytest.raises(RunError, match=r"is not empty and holds no run \(there is 'thesis.tex'\)"):
        create_run(tmp_path, name="a", config={}, provenance={})


def test_a_folder_without_a_manifest_is_made_anew(run, make):
    (run.path / "manifest.json").unlink()
    (run.path / "spectra" / "step-00000000.safetensors").unlink()
    (run.path / "spectra" / "step-00000010.safetensors").unlink()
    (run.path / "spectra").rmdir()
    assert make().records().empty


@pytest.mark.parametrize("config", [{"lr": float("nan")}, {"a": {1, 2}}, {"f": len}])
def test_what_json_has_not_is_refused(tmp_path, config):
    with pytest.raises(RunError, match="only text, finite numbers, lists and tables go there"):
        create_run(tmp_path, name="a", config=config, provenance={})


def test_what_is_no_run_says_so(tmp_path):
    with pytest.raises(RunError, match=r"there is no folder .*; a run is a folder written by deepprobe train"):
        open_run(tmp_path / "none")
    with pytest.raises(RunError, match=r"is no run: it has no manifest.json"):
        open_run(tmp_path)


def test_runs_are_listed_with_what_came_of_them(run, tmp_path):
    create_run(tmp_path, name="b", config={"model": "plain", "data": {"name": "mnist"}, "seed": 1}, provenance={})
    broken = create_run(tmp_path, name="c", config={}, provenance={})
    (broken.path / "config.json").write_text("{}")
    (tmp_path / "notes").mkdir()
    run.set_status("complete")
    table = list_runs(tmp_path)
    assert table["name"].tolist() == ["a", "b", "c"]
    assert table["status"].tolist() == ["complete", "stopped", "damaged"]
    assert table["model"].tolist() == ["net", "plain", None] or table["model"].isna().tolist() == [False, False, True]
    assert table["data"].tolist()[:2] == ["digits", "mnist"]
    assert table["seed"].tolist()[:2] == [3, 1]
    assert table.loc[0, ["epochs", "test_accuracy"]].tolist() == [1.0, 10.1]
    assert table["test_accuracy"].isna().tolist() == [False, True, True]
    assert list_runs(run.path)["name"].tolist() == ["a"]


def test_no_runs_are_an_empty_table_and_no_folder_an_error(tmp_path):
    assert list_runs(tmp_path).empty
    with pytest.raises(RunError, match="there is no folder"):
        list_runs(tmp_path / "none")


def test_a_manifest_that_would_lead_out_of_the_run_is_refused(run):
    from deepprobe.runs.manifest import Manifest

    outside = run.path.parent / "outside"
    outside.write_text("precious")
    Manifest(files={"../outside": "0" * 64}).write(run.path)
    with pytest.raises(RunError, match="is damaged: expected a status, a message and a list of the run's files"):
        open_run(run.path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1', "null", '{"sha256": 3}', "\x00", "[" * 100_000])
def test_a_manifest_of_anything_else_is_refused(run, content):
    (run.path / "manifest.json").write_text(content)
    with pytest.raises(RunError, match=r"manifest\.json is damaged"):
        open_run(run.path)


def test_a_manifest_of_a_later_format_is_refused(run):
    from deepprobe.runs.manifest import _digest_of

    body = json.loads((run.path / "manifest.json").read_text()) | {"format": 2}
    del body["sha256"]
    (run.path / "manifest.json").write_text(json.dumps(body | {"sha256": _digest_of(body)}))
    with pytest.raises(RunError, match="has format 2; this version of deepprobe reads 1"):
        open_run(run.path)


def test_oversized_settings_are_not_read(run):
    os.truncate(run.path / "manifest.json", 17 * 2**20)
    with pytest.raises(RunError, match="has 17,825,792 bytes; at most 2,097,152 were expected"):
        open_run(run.path)


def test_processes_that_write_at_once_lose_nothing(run, frames):
    from deepprobe.runs.database import append_rows

    before = len(run.records())
    context = multiprocessing.get_context("fork")
    database = run.path / "records.sqlite"
    frame = frames[0](50, loss=1.0)

    def work():
        for _ in range(20):
            append_rows(database, frame)

    workers = [context.Process(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0] * 4
    assert len(run.records()) == before + 80
