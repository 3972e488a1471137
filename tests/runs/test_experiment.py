"""An experiment's frames against the numbers that were written, and what is damaged, half made or of something else."""

from __future__ import annotations

import json
from itertools import combinations

import lottery_experiment as lottery
import numpy as np
import pandas as pd
import pytest

from deepprobe.errors import RunError, UnknownNameError
from deepprobe.records.frame import TIDY
from deepprobe.runs import create_experiment, create_run, list_runs, open_experiment
from deepprobe.runs.experiment import EXPERIMENT
from deepprobe.runs.outcome import OUTCOME, outcome
from deepprobe.runs.overlap import mask_overlap


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return lottery.build(tmp_path_factory.mktemp("lottery") / "e", seeds=(0, 1, 2), n_rounds=3)


@pytest.fixture
def experiment(tmp_path):
    """An experiment without runs that a test may spoil."""
    return create_experiment(tmp_path / "e", config=lottery.CONFIG, identity=lottery.CONFIG)


def test_runs_stand_by_seed_and_round_the_ticket_first(built):
    runs = built.runs()
    assert len(runs) == 3 * (1 + 3 * 4)
    assert runs["run"].tolist()[:6] == [
        "seed0-round00-ticket", "seed0-round01-ticket", "seed0-round01-random-mask", "seed0-round01-reinit",
        "seed0-round01-sibling", "seed0-round02-ticket",
    ]  # fmt: skip
    assert runs[["seed", "round", "n_weights", "n_kept"]].dtypes.astype(str).unique().tolist() == ["int64"]
    assert np.allclose(runs["density"], runs["n_kept"] / 1400, rtol=0, atol=0)
    assert set(runs["status"]) == {"complete"}
    assert runs["path"].tolist() == [str(built.path / name) for name in runs["run"]]


def test_the_table_says_what_came_of_every_training(built):
    table = built.table()
    assert table.columns.tolist()[:9] == [
        "run", "seed", "round", "branch", "density", "n_weights", "n_kept", "n_empty_layers", "status",
    ]  # fmt: skip
    for row in table.to_dict("records"):
        branch, round_, seed = row["branch"], row["round"], row["seed"]
        final, stop = lottery.final_accuracy(branch, round_, seed), lottery.stopping_step(branch, round_)
        assert row["test_accuracy"] == row["validation_accuracy"] == pytest.approx(final, abs=1e-12)
        assert row["early_stop_iteration"] == stop
        assert row["early_stop_test_accuracy"] == pytest.approx(final - 0.0001 * (400 - stop), abs=1e-12)
        assert (row["epochs"], row["seconds"], row["n_empty_layers"]) == (4.0, 2.5, 0.0)
        if branch == "sibling":
            assert row["barrier"] == pytest.approx(0.02 * (6 - round_))
            assert row["train_barrier"] == pytest.approx(0.004 * (6 - round_))
        else:
            assert np.isnan(row["barrier"])
            assert np.isnan(row["train_barrier"])


def test_records_carry_the_seed_and_round_of_the_experiment(built):
    records = built.records()
    assert records.columns.tolist()[:5] == ["run", "seed", "round", "branch", "density"]
    assert set(records.columns) == {*TIDY, "branch", "density"}
    runs = built.runs().set_index("run")
    assert set(records["run"]) == set(runs.index)
    for column in ("seed", "round", "branch", "density"):
        assert (records[column] == records["run"].map(runs[column])).all()
    layers = built.layers()
    assert len(layers) == 6 * len(runs)
    assert (layers["branch"] == layers["run"].map(runs["branch"])).all()
    assert layers["condition_number"].max() == pytest.approx(30 * 1.5**3 * 1.1)


def test_densities_and_masks_are_those_written(built):
    densities = built.densities()
    assert densities["layer"].unique().tolist() == ["fc1", "fc2", "out"]
    for row in densities.sample(12, random_state=0).to_dict("records"):
        mask = lottery.masks_of(row["branch"], row["round"], row["seed"])[f"{row['layer']}.weight"]
        assert (row["n_weights"], row["n_kept"]) == (mask.size, mask.sum())
        assert row["density"] == mask.mean()
    found = built.masks("seed1-round02-reinit")
    assert all(np.array_equal(found[k], m) for k, m in lottery.masks_of("reinit", 2, 1).items())
    with pytest.raises(
        UnknownNameError, match="has no run 'seed1-round02-reinti'; did you mean 'seed1-round02-reinit'"
    ):
        built.masks("seed1-round02-reinti")


def test_overlap_between_seeds_is_counted_weight_by_weight(built):
    overlap = built.mask_overlap()
    assert len(overlap) == 3 * (1 + 3 * 4)
    for row in overlap.to_dict("records"):
        one, other = (lottery.masks_of(row["branch"], row["round"], row[key]) for key in ("seed", "other_seed"))
        a, b = ({(name, i) for name, mask in masks.items() for i in np.flatnonzero(mask)} for masks in (one, other))
        assert row["overlap"] == pytest.approx(len(a & b) / len(a | b), rel=1e-12)
    pairs = overlap.loc[overlap["round"] == 0, ["seed", "other_seed"]].to_numpy().tolist()
    assert pairs == [list(pair) for pair in combinations((0, 1, 2), 2)]


def test_chance_is_what_random_masks_share_in_the_mean():
    draw = np.random.default_rng(5)
    sizes = {"a": (400, 40, 90), "b": (1000, 700, 500)}
    shared, union = 0, 0
    for _ in range(300):
        masks = [{}, {}]
        for name, (n, *kept) in sizes.items():
            for mask, k in zip(masks, kept, strict=True):
                mask[name] = draw.permutation(n) < k
        shared += sum(np.sum(masks[0][k] & masks[1][k]) for k in sizes)
        union += sum(np.sum(masks[0][k] | masks[1][k]) for k in sizes)
        chance = mask_overlap(*masks)[1]
    assert chance == pytest.approx(shared / union, rel=0.01)


def test_masks_of_other_networks_and_empty_ones_have_no_overlap():
    one = {"w": np.ones(4, dtype=bool)}
    assert np.isnan(mask_overlap(one, {"w": np.ones((2, 2), dtype=bool)})).all()
    assert np.isnan(mask_overlap(one, {"v": np.ones(4, dtype=bool)})).all()
    assert np.isnan(mask_overlap({"w": np.zeros(4, dtype=bool)}, {"w": np.zeros(4, dtype=bool)})).all()
    assert mask_overlap(one, one) == (1.0, 1.0)


def outcome_of(rows):
    """Outcome of rows (step, split, measure, value)."""
    frame = pd.DataFrame([dict(zip(("step", "split", "measure", "value"), row, strict=True)) for row in rows])
    return outcome(frame.reindex(columns=list(TIDY)))


def test_early_stopping_is_the_first_lowest_validation_loss():
    losses = {0: 2.0, 10: np.nan, 20: 0.5, 30: 0.5, 40: np.inf}
    rows = [(step, "validation", "loss", loss) for step, loss in losses.items()]
    rows += [(step, "test", "loss", 0.1 * step) for step in losses]
    rows += [(step, "test", "accuracy", step / 100) for step in losses]
    found = outcome_of(rows[::-1])
    assert (found["early_stop_iteration"], found["early_stop_test_accuracy"]) == (20.0, 0.2)
    assert found["test_accuracy"] == 0.4
    assert np.isnan(found["early_stop_validation_accuracy"])


def test_without_a_validation_set_nothing_is_chosen():
    found = outcome_of([(1, "test", "loss", 0.1), (1, "test", "accuracy", 0.9)])
    assert found["test_accuracy"] == 0.9
    assert np.isnan(found["early_stop_iteration"])
    nothing = outcome(pd.DataFrame(columns=list(TIDY)))
    assert list(nothing) == list(OUTCOME)
    assert np.isnan(list(nothing.values())).all()


def test_layers_that_keep_nothing_are_counted(experiment):
    masks = lottery.masks_of("ticket", 3, 0)
    masks["fc1.weight"][:] = False
    masks["out.weight"][:] = False
    lottery.add_run(experiment.path, round_=3, masks=masks)
    assert experiment.table()["n_empty_layers"].tolist() == [2.0]


def test_the_same_configuration_opens_the_experiment_that_is_there(experiment):
    again = create_experiment(experiment.path, config=lottery.CONFIG, identity=lottery.CONFIG)
    assert (again.path, again.config, again.identity) == (experiment.path, lottery.CONFIG, lottery.CONFIG)
    assert open_experiment(experiment.path).config == lottery.CONFIG
    assert again.table().empty
    assert again.records().empty
    assert again.layers().empty
    assert again.densities().empty
    assert again.mask_overlap().empty


def test_an_experiment_may_be_asked_for_more_rounds(experiment):
    more = lottery.CONFIG | {"rounds": 20}
    assert create_experiment(experiment.path, config=more, identity=lottery.CONFIG).config == more
    assert open_experiment(experiment.path).config == more
    assert open_experiment(experiment.path).identity == lottery.CONFIG


def test_another_configuration_is_refused_with_the_difference(experiment):
    other = json.loads(json.dumps(lottery.CONFIG))
    other["lottery"] |= {"prune": 0.5, "criterion": "snip"}
    with pytest.raises(RunError) as error:
        create_experiment(experiment.path, config=other, identity=other)
    assert str(error.value) == (
        f"{experiment.path} holds an experiment of another configuration (lottery.criterion: default in the folder, "
        '"snip" asked for; lottery.prune: 0.2 in the folder, 0.5 asked for); choose another folder'
    )


def test_a_folder_of_other_things_is_refused(tmp_path):
    create_run(tmp_path, name="a", config={}, provenance={})
    with pytest.raises(RunError, match=r"is not empty and holds no experiment \(there is 'a'\)"):
        create_experiment(tmp_path, config={}, identity={})
    with pytest.raises(RunError, match=r"is no experiment: it has no experiment.json, which deepprobe lottery writes$"):
        open_experiment(tmp_path)
    with pytest.raises(RunError, match=r"\(it is a run; use open_run\)"):
        open_experiment(tmp_path / "a")
    with pytest.raises(RunError, match="there is no folder"):
        open_experiment(tmp_path / "none")


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"format": 1', "\x00", "[" * 100_000, '{"sha256": 3}'])
def test_a_damaged_experiment_is_one_clear_error(experiment, content):
    (experiment.path / EXPERIMENT).write_text(content)
    for opening in (open_experiment, lambda p: create_experiment(p, config={}, identity={})):
        with pytest.raises(RunError, match=r"experiment\.json is damaged"):
            opening(experiment.path)


def test_only_runs_of_the_experiment_count(experiment):
    create_run(experiment.path, name="other", config={"model": "x"}, provenance={})
    (experiment.path / "seed0-round05-ticket").mkdir()
    (experiment.path / "notes.txt").write_text("")
    lottery.add_run(experiment.path)
    assert experiment.runs()["run"].tolist() == ["seed0-round00-ticket"]
    assert len(list_runs(experiment.path)) == 2


def test_a_run_that_is_being_written_shows_what_there_is(experiment):
    lottery.add_run(experiment.path, round_=1, status="running", masks=False, layers=False, steps=())
    run = lottery.add_run(experiment.path, round_=2, status="running", layers=False, steps=(0, 100))
    with run.writing():
        table = experiment.table().set_index("round")
    assert table["status"].tolist() == ["stopped", "running"]
    assert table.loc[1, ["test_accuracy", "n_empty_layers", "early_stop_iteration"]].isna().all()
    assert table.loc[2, "early_stop_iteration"] == 100
    assert experiment.densities()["round"].unique().tolist() == [2]


@pytest.mark.parametrize("name", ["records.sqlite", "masks.safetensors", "config.json", "manifest.json"])
@pytest.mark.parametrize("how", ["gone", "flipped"])
def test_a_damaged_run_stands_in_the_table_as_such(experiment, name, how):
    lottery.add_run(experiment.path, round_=0)
    path = lottery.add_run(experiment.path, round_=1).path / name
    content = path.read_bytes()
    path.unlink()
    if how == "flipped":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    table = experiment.table()
    assert table["run"].tolist()[:1] == ["seed0-round00-ticket"]
    assert table["status"].tolist()[:1] == ["complete"]
    if (name, how) == ("manifest.json", "gone"):
        assert len(table) == 1, "without a manifest it was never completely made"
    else:
        assert table[["run", "round", "branch", "status"]].to_numpy().tolist()[1] == [
            "seed0-round01-ticket", 1, "ticket", "damaged",
        ]  # fmt: skip
        assert table["test_accuracy"].notna().tolist()[0]
    assert set(experiment.records()["round"]) == ({0, 1} if name == "masks.safetensors" else {0})
    assert set(experiment.densities()["round"]) == ({0, 1} if name == "records.sqlite" else {0})
    experiment.runs(), experiment.mask_overlap()


def test_hostile_names_and_numbers_of_a_run_do_not_break_the_table(experiment):
    for i, which in enumerate([{}, {"seed": "x"}, {"seed": 0, "round": 1, "branch": "t", "n_weights": 0, "n_kept": 0}]):
        create_run(experiment.path, name=f"seed{i}-round00-odd", config={"lottery": which}, provenance={})
        create_run(experiment.path, name=f"odd{i}", config={"lottery": which}, provenance={})
    create_run(experiment.path, name="list", config={"lottery": [1]}, provenance={})
    table = experiment.table()
    assert table["run"].tolist() == [f"seed{i}-round00-odd" for i in range(3)]
    assert set(table["status"]) == {"damaged"}
