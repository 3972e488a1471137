"""The traps in which pruning tools were found: each test holds here, and for the naive way written beside it does not.

The numbers T1 … T16 are those of the survey that measured them; the naive ways are those of tools in use.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from copy import deepcopy
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune as torch_prune
from torch.utils.data import DataLoader, TensorDataset

from deepprobe.pruning import LayerCollapseWarning, Masks, prune, rewind
from deepprobe.pruning.allocation import kept_after, to_remove
from deepprobe.pruning.rewinding import masked
from deepprobe.pruning.selection import lowest_removed
from deepprobe.training import TrainConfig, load_checkpoint, train
from deepprobe.training.checkpoint import Checkpoint

JOB = Path(__file__).with_name("ddp_job.py")
CONFIG = TrainConfig(epochs=3, batch_size=75, lr=0.05, momentum=0.9, validation_share=0.0, device="cpu")
"""4 updates an epoch of 300 digits."""


def lenet(seed=0, *, width=30):
    """LeNet-300-100, or one tenth of it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width // 3), nn.ReLU(),
            nn.Linear(width // 3, 10),
        )  # fmt: skip


def fit(model, optimizer, data, *, n_steps, after=lambda: None, before=lambda: None, seed=0):
    """Training steps on random batches, the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n_steps):
        chosen = torch.randint(len(data[0]), (50,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(data[0][chosen]), data[1][chosen]).backward()
        before()
        optimizer.step()
        after()


def magnitudes(model, masks):
    """Scores of the masked weights."""
    return {name: p.detach().abs() for name, p in masks.parameters_of(model).items()}


# --- revival (T1, T2)

OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_no_optimizer_revives_a_removed_weight(digits, kind):
    def revived(keep_removed):
        """Removed weights that are not zero 60 steps after 80 % were removed, with the optimizer gone on with."""
        model = lenet()
        optimizer = OPTIMIZERS[kind](model.parameters())
        fit(model, optimizer, digits[0], n_steps=20)
        masks = prune(model, fraction=0.8)
        hooks = keep_removed(masks, optimizer, model)
        fit(model, optimizer, digits[0], n_steps=60, **hooks)
        weights = masks.parameters_of(model)
        return sum(int(weights[name][~mask].count_nonzero()) for name, mask in masks.items())

    def attached(masks, optimizer, model):
        masks.attach(optimizer, model)
        return {}

    def one_line(masks, optimizer, model):
        return {"after": lambda: masks.apply(model)}

    def naive(masks, optimizer, model):
        """Gradients of removed weights are zero, and that is all."""
        weights = masks.parameters_of(model)
        return {"before": lambda: [weights[name].grad.mul_(mask) for name, mask in masks.items()]}

    assert revived(attached) == 0
    assert revived(one_line) == 0
    assert revived(naive) > 1000


# --- counts (T4, T7, T8)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.99])
def test_ties_are_cut_at_the_exact_count_and_evenly(fraction):
    def equal():
        """Binary initial weights: all of one magnitude."""
        model = lenet()
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(p.sign() * 0.1)
        return model

    def fits(masks):
        """The count, and each layer's share of it."""
        return masks.n_kept == round(masks.n_weights * (1 - Fraction(str(fraction)))) and all(
            abs(n - masks[name].numel() * (1 - fraction)) <= 1 for name, n in masks.counts.items()
        )

    def threshold(model):
        """Naive: what is above the k-th lowest magnitude stays."""
        weights = magnitudes(model, Masks.dense(model))
        flat = torch.cat([w.flatten() for w in weights.values()])
        border = flat.kthvalue(max(round(fraction * len(flat)), 1)).values
        return Masks({name: w > border for name, w in weights.items()})

    def by_index(model):
        """Naive too: the exact count, all of it from the first layers."""
        weights = magnitudes(model, Masks.dense(model))
        order = torch.cat([w.flatten() for w in weights.values()]).argsort(stable=True)
        kept = torch.ones(len(order), dtype=torch.bool)
        kept[order[: round(fraction * len(order))]] = False
        parts = kept.split([w.numel() for w in weights.values()])
        return Masks({name: part.reshape(w.shape) for (name, w), part in zip(weights.items(), parts, strict=True)})

    model = equal()
    dense = Masks.dense(model)
    n = to_remove(dense, kept_after(dense.counts, [fraction]))
    assert fits(lowest_removed(magnitudes(model, dense), dense, n))
    assert not fits(threshold(model))
    assert not fits(by_index(model))


def test_twenty_rounds_are_exact_to_the_weight_with_a_protected_layer_too():
    intended = [round((64 * 150 + 150 * 50) * Fraction(4, 5) ** r) for r in range(1, 21)]

    def ours():
        model, found = lenet(width=150), []
        masks = start = Masks.dense(model, protect=["5"])
        for r in range(1, 21):
            kept = kept_after(start.counts, [0.2] * r)
            masks = lowest_removed(magnitudes(model, masks), masks, to_remove(masks, kept))
            found.append(masks.n_kept)
        return found

    def naive():
        """A threshold at sorted[n], n a fifth of all kept weights, those of the protected layer counted."""
        model, found = lenet(width=150), []
        masks, protected = dict(Masks.dense(model, protect=["5"])), 500
        for _ in range(20):
            kept = torch.cat([p.detach().abs()[masks[n]] for n, p in model.named_parameters() if n in masks])
            n_pruned = -(-(len(kept) + protected) // 5)
            if n_pruned >= len(kept):
                return found  # an IndexError, where this way is taken
            border = kept.sort().values[n_pruned]
            masks = {n: mask & (model.get_parameter(n).detach().abs() > border) for n, mask in masks.items()}
            found.append(int(sum(mask.sum() for mask in masks.values())))
        return found

    assert ours() == intended
    assert naive() != intended
    assert naive()[9] < 0.95 * intended[9]


def test_rates_of_layers_are_exact_in_every_round():
    """LeNet-300-100 as in the paper: 20 % a round, the output layer half of that."""
    model = lenet(width=300)
    sizes = {"1.weight": 64 * 300, "3.weight": 300 * 100, "5.weight": 1000}
    rates = {"1.weight": Fraction(4, 5), "3.weight": Fraction(4, 5), "5.weight": Fraction(9, 10)}

    def exact(masks, r):
        return masks.counts == {name: round(n * rates[name] ** r) for name, n in sizes.items()}

    def naive(masks):
        """Whole numbers per layer and round, rounded down each time."""
        n = {name: int(count * float(1 - rates[name])) for name, count in masks.counts.items()}
        return lowest_removed(magnitudes(model, masks), masks, n)

    masks = other = start = Masks.dense(model)
    found, drifted = [], []
    for r in range(1, 16):
        kept = kept_after(start.counts, [0.2] * r, allocation="layerwise", rates={"output": 0.5})
        masks = lowest_removed(magnitudes(model, masks), masks, to_remove(masks, kept))
        other = naive(other)
        found.append(exact(masks, r))
        drifted.append(exact(other, r))
    assert all(found)
    assert not all(drifted)
    once = prune(deepcopy(model), allocation="layerwise", fraction=0.2, rates={"output": 0.5})
    assert exact(once, 1)


def test_weights_beyond_2_to_the_24_are_counted_one_by_one():
    def naive(mask):
        return int(mask.float().sum())

    mask = torch.ones(2**24 + 3, dtype=torch.bool)
    assert Masks({"weight": mask}).n_kept == 2**24 + 3
    assert naive(mask) != 2**24 + 3
    mask[5] = False
    assert Masks({"weight": mask}).counts == {"weight": 2**24 + 2}


# --- what is pruned, and what it is afterwards (T11, T14, T16)


def test_biases_and_normalisation_are_never_pruned(net, digits):
    def untouched(remove):
        """Whether everything but kernels is as it was, and goes on to be trained as before."""
        model = net()
        with torch.no_grad():
            for norm in (model.bn1, model.bn2):
                norm.weight.uniform_(0.001, 0.01)  # lower than any kernel: the first to go, if they could
        before = {n: p.clone() for n, p in model.named_parameters() if p.ndim == 1}
        remove(model)
        same = all(torch.equal(model.get_parameter(n), p) for n, p in before.items())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        Masks({n: model.get_parameter(n) != 0 for n in Masks.dense(model)}).attach(optimizer, model)
        fit(model, optimizer, digits[0], n_steps=3)
        free = [n for n in before if not n.startswith("conv")]  # a bias before normalisation has no gradient
        return same and all(bool((model.get_parameter(n) != before[n]).any()) for n in free)

    def naive(model):
        """Every parameter with "weight" in its name."""
        for name, p in model.named_parameters():
            if "weight" in name:
                with torch.no_grad():
                    p[p.abs() <= p.abs().flatten().quantile(0.3)] = 0

    assert untouched(lambda model: prune(model, fraction=0.3))
    assert not untouched(naive)


def test_a_layer_that_collapses_is_named():
    def network():
        model = lenet()
        with torch.no_grad():
            model[3].weight.mul_(1e-3)
        return model

    def told(remove):
        """Whether a warning names the layer that was left empty."""
        model = network()
        with pytest.warns() as caught:  # pytest.warns itself fails where there is none
            remove(model)
        assert model[3].weight.count_nonzero() == 0
        return any(issubclass(w.category, LayerCollapseWarning) and "3 0 of 300" in str(w.message) for w in caught)

    def naive(model):
        """Global pruning by torch, which says nothing."""
        torch_prune.global_unstructured(
            [(model[i], "weight") for i in (1, 3, 5)], torch_prune.L1Unstructured, amount=0.5
        )
        for i in (1, 3, 5):
            torch_prune.remove(model[i], "weight")

    assert told(lambda model: prune(model, fraction=0.5))
    with pytest.raises(pytest.fail.Exception, match="DID NOT WARN"):
        told(naive)


def test_a_pruned_network_copies_and_loads_as_the_dense_one(digits, tmp_path):
    def like_dense(remove):
        """Whether the state dict is that of the dense network, in size too, and a copy after a forward pass works."""
        model = lenet()
        optimizer = torch.optim.Adam(model.parameters())
        remove(model, optimizer)
        fit(model, optimizer, digits[0], n_steps=2)
        try:
            copied = deepcopy(model)
            lenet(1).load_state_dict(copied.state_dict(), strict=True)
            torch.save(model, tmp_path / "model.pt")
        except RuntimeError:
            return False
        bytes_of = [sum(t.nbytes for t in m.state_dict().values()) for m in (model, lenet())]
        return bytes_of[0] == bytes_of[1] and torch.equal(copied(digits[0][0]), model(digits[0][0]))

    def naive(model, optimizer):
        for i in (1, 3, 5):
            torch_prune.l1_unstructured(model[i], "weight", amount=0.5)

    assert like_dense(lambda model, optimizer: prune(model, fraction=0.5).attach(optimizer, model))
    assert not like_dense(naive)


# --- rewinding (T10, T12)


def test_rewinding_takes_the_optimizer_back_too(digits):
    """Rewound to step 10 with nothing removed, 10 steps lead to where they led the first time."""

    def replayed(go_back):
        model = lenet()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        fit(model, optimizer, digits[0], n_steps=10, seed=1)
        early = Checkpoint(deepcopy(model.state_dict()), training={"optimizer": deepcopy(optimizer.state_dict())})
        fit(model, optimizer, digits[0], n_steps=10, seed=2)
        first = deepcopy(model.state_dict())
        go_back(model, early, optimizer)
        fit(model, optimizer, digits[0], n_steps=10, seed=2)
        return all(torch.equal(first[name], p) for name, p in model.state_dict().items())

    def ours(model, early, optimizer):
        rewind(model, early, Masks.dense(model), optimizer=optimizer)

    def weights_only(model, early, optimizer):
        model.load_state_dict(early.weights)

    def fresh_optimizer(model, early, optimizer):
        model.load_state_dict(early.weights)
        optimizer.state.clear()

    assert replayed(ours)
    assert not replayed(weights_only)
    assert not replayed(fresh_optimizer)


def test_rewinding_leaves_no_memory_of_removed_weights(digits):
    model = lenet()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    fit(model, optimizer, digits[0], n_steps=5)
    early = Checkpoint(deepcopy(model.state_dict()), training={"optimizer": deepcopy(optimizer.state_dict())})
    masks = prune(model, fraction=0.8)
    rewind(model, early, masks, optimizer=optimizer)
    for name, mask in masks.items():
        p = model.get_parameter(name)
        assert torch.equal(p != 0, mask)
        for what in ("exp_avg", "exp_avg_sq"):
            assert optimizer.state[p][what][~mask].count_nonzero() == 0
            assert optimizer.state[p][what][mask].count_nonzero() > 0
        assert optimizer.state[p]["step"] == 5


class Watching(nn.Module):
    """A network that keeps what it is trained on: the batches, and what dropout let through."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.drop = inner, nn.Dropout(0.5)
        self.seen = []

    def forward(self, x):
        x = self.drop(x)
        if self.training:
            self.seen.append(x.detach().clone())
        return self.inner(x)


def test_a_replay_sees_the_same_batches_in_the_same_order_and_the_same_noise(digits, tmp_path):
    """A ticket trained from step 5 on sees what the dense network saw from there on, to the bit."""

    def loader():
        return DataLoader(TensorDataset(*digits[0]), batch_size=75, shuffle=True)  # order of the global generator

    dense = Watching(lenet())
    run = train(dense, loader(), config=CONFIG, out=tmp_path / "dense", keep=["5it"], quiet=True)
    early = load_checkpoint(run.check("checkpoints/step-000000000005.pt"))
    masks = prune(deepcopy(dense), fraction=0.5)

    def sees_the_same(model, start, config=CONFIG):
        model.seen.clear()
        train(model, loader(), config=config, start=start, quiet=True)
        return len(model.seen) == 7 and all(map(torch.equal, model.seen, dense.seen[5:]))

    assert sees_the_same(Watching(lenet(1)), masked(early, masks))

    naive = Watching(lenet(1))
    naive.load_state_dict(early.weights)
    assert not sees_the_same(naive, None)  # weights alone: trained from the first batch again
    only_the_step = Checkpoint(early.weights, training={**early.training, "ranks": None})
    assert not sees_the_same(Watching(lenet(1)), only_the_step)  # and without the random states


def test_the_initial_state_stays_what_it_was(digits):
    def stays(go_back):
        """Whether the state that is gone back to survives the training after it."""
        model = lenet()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        initial = {name: p.detach().clone() for name, p in model.state_dict().items()}
        kept = deepcopy(initial)
        fit(model, optimizer, digits[0], n_steps=5)
        masks = prune(model, fraction=0.5)
        go_back(model, initial, masks)
        fit(model, optimizer, digits[0], n_steps=5)
        return all(torch.equal(initial[name], kept[name]) for name in kept)

    def naive(model, initial, masks):
        for name, p in model.named_parameters():
            p.data = initial[name] * masks[name] if name in masks else initial[name]

    assert stays(lambda model, initial, masks: rewind(model, initial, masks))
    assert not stays(naive)


def test_two_tickets_may_start_from_one_state_in_memory(digits, tmp_path):
    """Neither training changes the weights or the optimizer state that both begin from."""
    run = train(lenet(), digits[0], config=CONFIG, out=tmp_path / "r", keep=["5it"], quiet=True)
    early = load_checkpoint(run.check("checkpoints/step-000000000005.pt"))
    ends = []
    for _ in range(2):
        model = lenet(1)
        train(model, digits[0], config=CONFIG, start=early, quiet=True)
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


# --- several processes (T5, T6)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What two processes that pruned and trained one network together found."""
    place = tmp_path_factory.mktemp("ddp")
    jobs = [
        subprocess.Popen(
            [sys.executable, str(JOB), str(place)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"RANK": str(rank), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [job.communicate(timeout=240)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], "\n".join(said)
    return [json.loads((place / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_all_processes_have_the_same_masks_and_weights(two_processes):
    first, second = two_processes
    for what in ("masks", "weights", "trained_masks", "trained", "lottery"):
        assert first[what] == second[what], what
    assert len(set(first["lottery"])) == 5  # three tickets and two controls
    assert first["revived"] == second["revived"] == 0
    assert first["n_kept"] == round((12 * 32 + 32 * 4) * 0.3)
    assert first["naive_masks"] != second["naive_masks"]  # ties broken by each process's own generator


def test_masks_cost_no_traffic_between_processes(two_processes):
    for found in two_processes:
        assert found["dense"]["gradients"] > 0 < found["dense"]["buffers"]
        assert found["masked"] == found["dense"]
        extra = found["naive"]["buffers"] - found["dense"]["buffers"]  # masks as buffers are sent at every step
        assert extra == 4 * (12 * 32 + 32 * 4)
