"""Experiments: exact tickets, controls that differ in one thing each, and nothing lost when they are stopped."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import deepprobe as dp
from deepprobe.errors import ConfigError, NonFiniteError, RunError, UnknownNameError
from deepprobe.pruning import LotteryConfig, Splits, export_ticket, lottery_tasks, run_lottery
from deepprobe.records.step import at
from deepprobe.training import TrainConfig, load_checkpoint

TRAINING = TrainConfig(epochs=2, batch_size=50, lr=0.1, schedule="constant", validation_share=0.2)
CONFIG = LotteryConfig(training=TRAINING, rounds=2, probe_samples=20)


def weights(run_path):
    return load_checkpoint(sorted(run_path.glob("checkpoints/step-*.pt"))[-1]).weights


def run_of(experiment, number, branch="ticket", seed=0):
    return experiment.path / f"seed{seed}-round{number:02d}-{branch}"


@pytest.fixture(autouse=True, scope="module")
def _one_thread_for_all():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Starts:
    """Callback that keeps the weights of each run as they are before its first update."""

    schedule = at("0it").schedule

    def __init__(self):
        self.of = {}

    def __call__(self, context):
        self.of[context.run.name] = {n: t.clone() for n, t in context.model.state_dict().items()}


@pytest.fixture(scope="module")
def few():
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(data.target, dtype=torch.int64)
    return (images[:300], labels[:300]), (images[300:400], labels[300:400])


def make(seed):
    """A net for 8 × 8 digits whose weights are those of the seed."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(72, 10)
    )


@pytest.fixture(scope="module")
def found(few, tmp_path_factory):
    """An experiment with every control, and the weights that its trainings began with."""
    starts = Starts()
    config = replace(CONFIG, controls=("reinit", "random-mask", "shuffled-mask", "dense", "sibling"))
    out = tmp_path_factory.mktemp("lottery") / "all"
    return run_lottery(make, few, config, out=out, callbacks=[starts], quiet=True), starts.of


def test_a_round_keeps_exactly_what_it_should(found):
    experiment, _ = found
    table = experiment.table()
    assert table["status"].eq("complete").all()
    tickets = table[table["branch"] == "ticket"]
    assert tickets["n_weights"].eq(792).all()
    assert tickets["n_kept"].tolist() == [792, round(792 * 0.8), round(792 * 0.64)]
    for name, n_kept in zip(table["run"], table["n_kept"], strict=True):
        masks = experiment.masks(name)
        assert sum(int(m.sum()) for m in masks.values()) == n_kept
        trained = weights(experiment.path / name)
        for parameter, mask in masks.items():
            kept = torch.from_numpy(mask)
            assert trained[parameter][~kept].eq(0).all()
            assert trained[parameter][kept].ne(0).all()


def test_what_goes_is_what_has_the_smallest_magnitude_after_training(found):
    experiment, _ = found
    for number in (1, 2):
        trained = weights(run_of(experiment, number - 1))
        before, after = (experiment.masks(run_of(experiment, n).name) for n in (number - 1, number))
        magnitudes = np.concatenate([trained[n].abs().numpy()[m] for n, m in before.items()])
        kept = np.concatenate([after[n][m] for n, m in before.items()])
        assert magnitudes[kept].min() >= magnitudes[~kept].max()
        assert not any((after[n] & ~before[n]).any() for n in before)


def test_tickets_begin_with_the_initial_weights_and_zeros(found):
    experiment, starts = found
    first = starts["seed0-round00-ticket"]
    assert all(torch.equal(first[n], t) for n, t in make(0).state_dict().items())
    for name in ("seed0-round01-ticket", "seed0-round02-ticket", "seed0-round02-random-mask", "seed0-round01-sibling"):
        masks = experiment.masks(name)
        for parameter, tensor in starts[name].items():
            kept = torch.from_numpy(masks.get(parameter, np.ones(tensor.shape, dtype=bool)))
            assert torch.equal(tensor[kept], first[parameter][kept])
            assert tensor[~kept].eq(0).all()


def test_controls_differ_from_the_ticket_in_what_they_say(found):
    experiment, starts = found
    ticket, first = experiment.masks("seed0-round02-ticket"), starts["seed0-round00-ticket"]
    masks = {b: experiment.masks(f"seed0-round02-{b}") for b in ("reinit", "random-mask", "shuffled-mask", "sibling")}
    for branch in ("reinit", "sibling"):
        assert all(np.array_equal(masks[branch][n], m) for n, m in ticket.items())
    for branch in ("random-mask", "shuffled-mask"):
        assert all(masks[branch][n].sum() == m.sum() for n, m in ticket.items())
        assert any(not np.array_equal(masks[branch][n], m) for n, m in ticket.items())
    assert np.array_equal(masks["shuffled-mask"]["5.weight"].sum(axis=1), ticket["5.weight"].sum(axis=1))
    again = starts["seed0-round02-reinit"]["5.weight"]
    kept = torch.from_numpy(ticket["5.weight"])
    assert again[kept].ne(first["5.weight"][kept]).all()
    assert not torch.equal(again, starts["seed0-round01-reinit"]["5.weight"])
    assert not torch.equal(
        weights(run_of(experiment, 1))["5.weight"], weights(run_of(experiment, 1, "sibling"))["5.weight"]
    )


def test_the_dense_control_trains_as_long_as_all_rounds_so_far(found):
    experiment, _ = found
    dense = experiment.table().query("branch == 'dense'")
    assert dense["density"].eq(1).all()
    assert dense["epochs"].tolist() == [4, 6]


def test_a_sibling_tells_the_barrier_between_it_and_the_ticket(found, few):
    experiment, _ = found
    records = experiment.records()
    rows = records[(records["branch"] == "sibling") & (records["split"] == "test")].set_index("measure")["value"]
    path = dp.pruning.linear_path(
        make(0), weights(run_of(experiment, 0)), weights(run_of(experiment, 0, "sibling")), few[1], batch_size=1024
    )
    first = records[(records["run"] == "seed0-round00-sibling") & (records["split"] == "test")]
    told = first.set_index("measure")["value"]
    assert told["error_barrier"] == pytest.approx(dp.pruning.error_barrier(path))
    assert told["error_at_0.5"] == pytest.approx(path["error"][5])
    assert rows["error_barrier"].size == 3


def test_condition_numbers_of_representations_and_kernels_are_taken_at_the_end(found):
    experiment, _ = found
    records = experiment.records()
    kappa = records[records["measure"] == "condition_number"]
    assert set(kappa["tap"]) == {"output", "weight"}
    assert kappa["step"].eq(kappa["run"].map(records.groupby("run")["step"].max())).all()
    assert set(kappa["run"]) == set(experiment.runs()["run"])


def test_the_same_call_again_does_nothing_and_more_can_be_added(few, tmp_path):
    config = replace(CONFIG, rounds=1, probe_samples=0)
    first = run_lottery(make, few, config, out=tmp_path / "e", quiet=True)
    before = {p: p.stat().st_mtime_ns for p in first.path.rglob("*") if p.is_file() and p.name != ".lock"}
    run_lottery(make, few, config, out=tmp_path / "e", quiet=True)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    more = replace(config, rounds=2, seeds=(0, 1), controls=("reinit",))
    second = run_lottery(make, few, more, out=tmp_path / "e", quiet=True)
    assert len(second.runs()) == 2 * (3 + 2)
    assert {p: p.stat().st_mtime_ns for p in before if p.parent != first.path} == {
        p: t for p, t in before.items() if p.parent != first.path
    }
    assert second.config["lottery"]["rounds"] == 2
    whole = run_lottery(make, few, more, out=tmp_path / "whole", quiet=True)
    columns = ["run", "n_kept", "test_accuracy", "train_loss", "early_stop_iteration"]
    pd.testing.assert_frame_equal(second.table()[columns], whole.table()[columns])


def test_other_settings_are_refused_in_the_same_folder(few, tmp_path):
    config = replace(CONFIG, rounds=1, probe_samples=0)
    run_lottery(make, few, config, out=tmp_path / "e", quiet=True)
    with pytest.raises(RunError, match=r"lottery.criterion: default in the folder, .random. asked for"):
        run_lottery(make, few, replace(config, criterion="random"), out=tmp_path / "e", quiet=True)
    other = replace(config, training=replace(TRAINING, lr=0.2))
    with pytest.raises(RunError, match=r"lottery.training.lr: 0.1 in the folder, 0.2 asked for"):
        run_lottery(make, few, other, out=tmp_path / "e", quiet=True)


class StopOnce:
    """Callback that ends the process, as far as a test needs it, at one step of one run."""

    def __init__(self, run, step):
        self.run, self.step = run, step
        self.schedule = at(f"{step}it").schedule

    def __call__(self, context):
        if context.run.name == self.run and context.step.index == self.step:
            self.run = None
            raise RuntimeError("stopped")


@pytest.mark.parametrize(
    ("rewind", "run", "step"),
    [("init", "seed0-round00-ticket", 3), ("3it", "seed0-round01-ticket", 7), ("3it", "seed0-round02-ticket", 4),
     ("none", "seed0-round02-ticket", 6), ("lr:3it", "seed0-round01-reinit", 8)],
)  # fmt: skip
def test_stopped_anywhere_it_ends_in_the_same_bits(few, tmp_path, rewind, run, step):
    training = replace(TRAINING, optimizer="adam", lr=0.01, checkpoint_every="2it")
    config = replace(CONFIG, training=training, rewind=rewind, controls=("reinit",), probe_samples=0)
    whole = run_lottery(make, few, config, out=tmp_path / "whole", quiet=True)
    with pytest.raises(RuntimeError, match="stopped"):
        run_lottery(make, few, config, out=tmp_path / "e", callbacks=[StopOnce(run, step)], quiet=True)
    again = run_lottery(make, few, config, out=tmp_path / "e", quiet=True)
    for name in whole.runs()["run"]:
        a, b = weights(whole.path / name), weights(again.path / name)
        assert all(torch.equal(a[n], b[n]) for n in a)
        files = [e.path / name / "masks.safetensors" for e in (whole, again)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_ticket_rewound_with_nothing_removed_repeats_the_dense_training(few, tmp_path):
    """Weights, statistics, optimizer, order of the data and dropout all come back: else the bits would differ."""
    training = replace(TRAINING, optimizer="adam", lr=0.01)
    config = LotteryConfig(training=training, densities=(0.9999999,), rewind="4it", probe_samples=0)
    experiment = run_lottery(make, few, config, out=tmp_path / "e", quiet=True)
    table = experiment.table()
    assert table["n_kept"].tolist() == [792, 792]
    a, b = weights(run_of(experiment, 0)), weights(run_of(experiment, 1))
    assert all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("kind", ["module", "name", "loaders", "mapping", "function"])
def test_any_network_and_any_data_will_do(few, tmp_path, kind):
    model, data = make, few
    if kind == "module":
        model = make(3)
    elif kind == "name":
        model = "lenet300_100"
    elif kind == "loaders":
        loaders = [
            torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*part), batch_size=50, shuffle=not i)
            for i, part in enumerate(few)
        ]
        data = Splits(train=loaders[0], test=loaders[1], validation=few[1])
    elif kind == "mapping":
        data = {"train": few[0], "validation": few[1]}
    elif kind == "function":
        data = lambda: few  # noqa: E731
    before = {n: t.clone() for n, t in model.state_dict().items()} if kind == "module" else {}
    config = replace(CONFIG, rounds=1, controls=("reinit",))
    experiment = run_lottery(model, data, config, out=tmp_path / "e", quiet=True)
    assert experiment.table()["status"].tolist() == ["complete"] * 3
    if kind == "module":
        assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_a_ticket_is_exported_as_a_plain_state_dict(found, tmp_path):
    experiment, starts = found
    export_ticket(experiment, tmp_path / "t.safetensors", seed=0, round=2)
    export_ticket(experiment.path, tmp_path / "trained.safetensors", seed=0, round=2, trained=True)
    model = make(9)
    model.load_state_dict(load_file(tmp_path / "t.safetensors"))
    assert all(torch.equal(t, starts["seed0-round02-ticket"][n]) for n, t in model.state_dict().items())
    model.load_state_dict(load_file(tmp_path / "trained.safetensors"))
    trained = weights(run_of(experiment, 2))
    assert all(torch.equal(t, trained[n]) for n, t in model.state_dict().items())
    with pytest.raises(RunError, match="has no run 'seed0-round09-ticket'; did you mean 'seed0-round"):
        export_ticket(experiment, tmp_path / "no.safetensors", seed=0, round=9)
    with pytest.raises(RunError, match="export the trained ones"):
        export_ticket(experiment, tmp_path / "no.safetensors", seed=0, round=1, branch="reinit")


def test_a_control_without_its_ticket_is_told(few, tmp_path):
    tasks = lottery_tasks(make, few, replace(CONFIG, controls=("reinit",)), out=tmp_path / "e", quiet=True)
    assert [task.key[1:] for task in tasks] == [(0, "ticket"), (0, "reinit")]
    assert tasks[1].needs == (tasks[0].key,)
    with pytest.raises(RunError, match="the ticket of a round is made before its controls"):
        tasks[1].call()


def test_a_chain_ends_where_a_network_diverges_and_other_seeds_go_on(few, tmp_path):
    config = replace(CONFIG, training=replace(TRAINING, lr=1e5, momentum=0.0), seeds=(0, 1), probe_samples=0)
    with pytest.raises(NonFiniteError, match=r"seed0-round00-ticket diverged .* no trained network to prune"):
        run_lottery(make, few, config, out=tmp_path / "e", quiet=True)
    assert dp.open_experiment(tmp_path / "e").table()["run"].tolist() == [
        "seed0-round00-ticket",
        "seed1-round00-ticket",
    ]


BAD = [
    ({"prune": 0.0}, ConfigError, "prune=0.0"),
    ({"prune": 1.0}, ConfigError, "prune=1.0"),
    ({"prune": float("nan")}, ConfigError, "prune=nan"),
    ({"densities": (0.2, 0.5)}, ConfigError, "number 2 is not below the one before"),
    ({"densities": (1.5,)}, ConfigError, "densities"),
    ({"criterion": "magnitud"}, ConfigError, "did you mean 'magnitude'"),
    ({"rewind": "5"}, ConfigError, "rewind='5': write 'init'"),
    ({"rewind": "9ep"}, ConfigError, "a point before the end of training, which has 10 updates in 2 epochs"),
    ({"protect": ("head.*",)}, UnknownNameError, "protect: 'head.*' matches no layer"),
    ({"rates": {"head": 0.5}, "allocation": "layerwise"}, UnknownNameError, "rates: 'head' matches no layer"),
    ({"rates": {"output": 0.5}}, ConfigError, "need allocation='layerwise'"),
    ({"controls": ("reset",)}, ConfigError, "controls"),
    ({"control_rounds": (3,)}, ConfigError, "there are rounds 1 … 2"),
    ({"rounds": 60}, ConfigError, "after 60 rounds none of the 792 weights would be left"),
    ({"evaluate_every": "often"}, ConfigError, "'often' is no schedule"),
    ({"pruning": "gradual"}, ConfigError, "gradual='1ep..5ep/100it'"),
    ({"seeds": ()}, ConfigError, "seeds"),
    ({"seeds": 3}, ConfigError, "seeds=3: must be a list, such as [3]"),
    ({"controls": "reinit"}, ConfigError, "controls='reinit': must be a list, such as ['reinit']"),
    ({"rewind": "lr", "controls": ("random-mask",)}, ConfigError, "would keep weights that earlier rounds"),
    ({"rewind": "lr", "criterion": "snip"}, ConfigError, "criterion='snip', scored before training, would"),
]


@pytest.mark.parametrize(("settings", "error", "words"), BAD, ids=[str(next(iter(b[0].items()))) for b in BAD])
def test_bad_settings_are_one_clear_error_before_any_training(few, tmp_path, settings, error, words):
    with pytest.raises(error, match=re.escape(words)):
        run_lottery(
            make, few, LotteryConfig(training=TRAINING, **{"rounds": 2, **settings}), out=tmp_path / "e", quiet=True
        )
    assert not list((tmp_path / "e").glob("seed*"))


def test_networks_and_data_that_do_not_fit_are_told_before_any_training(few, tmp_path):
    with pytest.raises(UnknownNameError, match="this Sequential has no prunable weights"):
        run_lottery(lambda seed: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)), few, CONFIG, out=tmp_path / "a")
    with pytest.raises(ConfigError, match="the function gave a int, not a network"):
        run_lottery(lambda seed: 3, few, CONFIG, out=tmp_path / "b")
    with pytest.raises(ConfigError, match="data is a Tensor: give the name of a data set"):
        run_lottery(make, few[0][0], CONFIG, out=tmp_path / "c")
    with pytest.raises(ConfigError, match=r"does not take inputs of shape \(1, 8, 8\): mat1 and mat2"):
        run_lottery(lambda seed: nn.Sequential(nn.Flatten(), nn.Linear(60, 10)), few, CONFIG, out=tmp_path / "g")
    with pytest.raises(UnknownNameError):
        run_lottery("lenet300", few, CONFIG, out=tmp_path / "d")
    with pytest.raises(ConfigError, match=r"model is the class Linear: give Linear\(\), or a function of a seed"):
        run_lottery(nn.Linear, few, CONFIG, out=tmp_path / "d")
    with pytest.raises(ConfigError, match="model is a int: give the name of a network, a module, or a function"):
        run_lottery(3, few, CONFIG, out=tmp_path / "d")
    with pytest.raises(ConfigError, match=r"config is a TrainConfig: give LotteryConfig\("):
        run_lottery(make, few, TRAINING, out=tmp_path / "d")

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(10, 64))

        def forward(self, x):
            return x.flatten(1) @ self.weight.T

    with pytest.raises(ConfigError, match="has no reset_parameters"):
        run_lottery(Own(), few, replace(CONFIG, controls=("reinit",)), out=tmp_path / "e")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "thesis.txt").write_text("x")
    with pytest.raises(RunError, match=r"is not empty and holds no experiment \(there is 'thesis.txt'\)"):
        run_lottery(make, few, CONFIG, out=tmp_path / "f")


def test_masks_are_drawn_along_the_way_where_that_is_asked_for(few, tmp_path):
    config = replace(CONFIG, rounds=1, early_bird_every="1ep", probe_samples=0)
    records = run_lottery(make, few, config, out=tmp_path / "e", quiet=True).records()
    drawn = records[records["measure"] == "mask_distance"]
    assert drawn.groupby("run").size().to_dict() == {"seed0-round00-ticket": 2, "seed0-round01-ticket": 2}
    assert drawn["value"].between(0, 1).all()


def test_a_changed_network_split_or_description_is_refused_in_the_same_folder(few, tmp_path):
    config = replace(CONFIG, rounds=1, probe_samples=0)

    def ask(model=make, data=few, **more):
        run_lottery(model, data, config, out=tmp_path / "e", about={"who": "a"} | more, quiet=True)

    ask()
    with pytest.raises(RunError, match=r"about.who: .a. in the folder, .b. asked for"):
        ask(who="b")
    with pytest.raises(RunError, match=r"model.initial_weights: "):
        ask(lambda seed: make(seed + 1))
    with pytest.raises(RunError, match=r"model.layers: "):
        ask(lambda seed: nn.Sequential(*[nn.Tanh() if isinstance(m, nn.ReLU) else m for m in make(seed)]))
    with pytest.raises(RunError, match=r"held_out.test.sha256: "):
        ask(data=(few[0], (few[1][0] + 1, few[1][1])))
    with pytest.raises(ConfigError, match="the function gave other weights when it was called with the same seed"):
        ask(lambda seed: make(int(torch.seed() % 2**31)))


def test_other_densities_are_refused_in_the_same_folder_and_further_ones_added(few, tmp_path):
    def ask(**rounds):
        return run_lottery(make, few, replace(CONFIG, probe_samples=0, **rounds), out=tmp_path / "e", quiet=True)

    ask(densities=(0.5,))
    for other in ({"densities": (0.4,)}, {"rounds": 1}):
        with pytest.raises(RunError, match=r"other densities \(seed0-round01-ticket keeps 396 weights, "):
            ask(**other)
    found = ask(densities=(0.5, 0.2))
    assert found.table()["n_kept"].tolist() == [792, 396, 158]
    assert found.config["lottery"]["densities"] == [0.5, 0.2]


def test_a_function_may_give_the_same_network_each_time_and_reinit_then_is_refused(few, tmp_path):
    net = make(0)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    config = replace(CONFIG, rounds=1, probe_samples=0)
    run_lottery(lambda seed: nn.DataParallel(net), few, config, out=tmp_path / "e", quiet=True)
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
    with pytest.raises(ConfigError, match="'reinit' needs other initial weights for another seed"):
        run_lottery(lambda seed: net, few, replace(config, controls=("reinit",)), out=tmp_path / "f", quiet=True)
    with pytest.raises(ConfigError, match="the seed of the weights is that of each experiment"):
        run_lottery("lenet300_100", few, config, out=tmp_path / "f", model_options={"seed": 3}, quiet=True)
    with pytest.raises(ConfigError, match="only for a network of the zoo"):
        run_lottery(make, few, config, out=tmp_path / "f", model_options={"width": 3}, quiet=True)


def test_a_loader_with_a_generator_of_its_own_gives_the_same_bits_in_a_new_process(few, tmp_path):
    config = replace(CONFIG, rounds=1, probe_samples=0, controls=("reinit", "sibling"), control_rounds=(1,))

    def ask(name, **settings):
        drawn = torch.Generator().manual_seed(9)  # as at the start of a process
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(*few[0]), batch_size=50, shuffle=True, generator=drawn
        )
        data = Splits(train=loader, test=few[1])
        return run_lottery(make, data, replace(config, **settings), out=tmp_path / name, quiet=True)

    whole = ask("whole")
    ask("parts", controls=())
    parts = ask("parts")
    for name in whole.runs()["run"]:
        a, b = weights(whole.path / name), weights(parts.path / name)
        assert all(torch.equal(a[n], b[n]) for n in a)
    ticket, sibling = (weights(run_of(whole, 1, branch)) for branch in ("ticket", "sibling"))
    assert not torch.equal(ticket["5.weight"], sibling["5.weight"])


def test_a_sibling_whose_data_have_one_order_only_is_told(few, tmp_path):
    def plain(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    config = replace(CONFIG, rounds=1, probe_samples=0, controls=("sibling",), control_rounds=(0,))
    batches = [(few[0][0][i : i + 50], few[0][1][i : i + 50]) for i in range(0, 300, 50)]
    with pytest.raises(ConfigError, match="a list of batches has one order only"):
        run_lottery(plain, Splits(train=batches, test=few[1]), config, out=tmp_path / "e", quiet=True)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*few[0]), batch_size=50)
    with pytest.warns(UserWarning, match="seed0-round00-sibling has the very weights of its ticket"):
        run_lottery(plain, Splits(train=loader, test=few[1]), config, out=tmp_path / "e", quiet=True)


@pytest.mark.parametrize(
    ("pruning", "epochs"), [({"pruning": "one-shot"}, 4), ({"pruning": "gradual", "gradual": "0ep..1ep/2it"}, 2)]
)
def test_the_dense_control_of_other_ways_to_prune_trains_as_long_as_they_do(few, tmp_path, pruning, epochs):
    config = replace(CONFIG, controls=("dense",), control_rounds=(2,), probe_samples=0, **pruning)
    experiment = run_lottery(make, few, config, out=tmp_path / "e", quiet=True)
    assert experiment.table().query("branch == 'dense'")["epochs"].tolist() == [epochs]
    if pruning["pruning"] == "gradual":
        with pytest.raises(RunError, match="pruning='gradual' has no weights of its own from before training"):
            export_ticket(experiment, tmp_path / "t.safetensors", seed=0, round=1)


def test_samples_for_gradients_are_of_all_classes_where_data_are_sorted(few, tmp_path):
    seen = []

    def looking(model, inputs):
        if len(inputs[0]) == 60:
            seen.append(inputs[0][:, 0, 0, 0].unique().tolist())

    def marked(seed):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        model.register_forward_pre_hook(looking)
        return model

    y = few[0][1].sort().values
    x = y.float()[:, None, None, None].expand(-1, 1, 8, 8).contiguous()
    config = LotteryConfig(training=TRAINING, densities=(0.5,), criterion="snip", criterion_samples=60, probe_samples=0)
    run_lottery(marked, Splits(train=(x, y)), config, out=tmp_path / "e", quiet=True)
    assert seen
    assert all(len(found) == 10 for found in seen)
