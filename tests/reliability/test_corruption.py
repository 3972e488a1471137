"""A flipped byte or a cut in any file of a run is refused by the file's name, or changes nothing that is read."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from reliability.trials import trials

from deepprobe.errors import CheckpointError, RunError
from deepprobe.integrations import ProbeCallback
from deepprobe.runs import list_runs, open_run
from deepprobe.training import TrainConfig, load_checkpoint, save_checkpoint, train
from deepprobe.training.checkpoints import Checkpoints


def net():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))


@pytest.fixture(params=["complete", "running"])
def run(request, tmp_path):
    """A run as training leaves it, complete or as of a process that died, with two files of weights beside it."""
    images = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) % 10
    config = TrainConfig(epochs=2, batch_size=16, validation_share=0.0)
    probe = ProbeCallback(every="1ep", batches=[(images, labels)])
    run = train(
        net(), (images, labels), test_set=(images, labels), config=config, out=tmp_path / "runs", name="a", quiet=True,
        callbacks=[probe],
    )  # fmt: skip
    if request.param == "running":
        run.set_status("running")
    weights = tmp_path / "weights"
    weights.mkdir()
    save_checkpoint(weights / "own.pt", net(), about={"data": "digits"}, training={"index": 3, "rates": [0.1, 0.2]})
    torch.save(net().state_dict(), weights / "bare.pt")
    return run


def plain(value):
    """Nested tables and tensors as something that can be compared, to the last bit."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.shape, value.contiguous().flatten().view(torch.uint8).tolist()
    if isinstance(value, dict):
        return [(str(k), plain(v)) for k, v in value.items()]
    return [plain(v) for v in value] if isinstance(value, list | tuple) else repr(value)


def weights_in(path):
    """All that is read of a file of weights."""
    found = load_checkpoint(path)
    return plain([found.weights, found.deepprobe_config, found.about, found.training])


def in_run(path):
    """All that is read of a run, every checkpoint included."""
    run = open_run(path)
    spectra = {(step, key): v.tobytes() for step in run.steps_probed() for key, v in run.spectra(step).items()}
    checkpoints = [weights_in(run.check(name)) for name in run.files("checkpoints")]
    settings = run.config, run.provenance, run.identity, run.status, run.message
    return settings, spectra, checkpoints, run.records().to_csv()


def outcome(read, path):
    """What is read, or the error."""
    try:
        return read(path)
    except RunError as error:
        return error


class Damage:
    """Every file of a run and of weights, and what was read of each while it was whole."""

    def __init__(self, run):
        self.run = run
        beside = run.path.parent.parent / "weights"
        self.files = sorted(p for p in run.path.rglob("*") if p.is_file() and p.stat().st_size)
        self.files += sorted(beside.iterdir())
        self.listed = list_runs(run.path.parent).to_dict("records")
        self.before = {p: read(target) for p in self.files for read, target in [self.reader(p)]}
        self.counts = Counter()

    def reader(self, path):
        return (in_run, self.run.path) if path.is_relative_to(self.run.path) else (weights_in, path)

    def try_with(self, path, content):
        """Put this content in the place of the file's own, read, and put it back."""
        whole = path.read_bytes()
        path.write_bytes(content)
        read, target = self.reader(path)
        found = outcome(read, target)
        if isinstance(found, RunError):
            assert path.name in str(found), f"{path.name} is not named: {found}"
            self.counts["refused"] += 1
        else:
            assert found == self.before[path], f"{path.name}: silent"
            self.counts["harmless"] += 1
        listed = list_runs(self.run.path.parent)
        assert listed["status"].tolist() == ["damaged"] or listed.to_dict("records") == self.listed
        path.write_bytes(whole)


@trials("flips", quick=40, full=500)
def test_a_flipped_byte_is_refused_or_harmless(run, tally, n):
    damage, draw = Damage(run), random.Random(n)
    for trial in range(n):
        path = damage.files[trial % len(damage.files)]
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        damage.try_with(path, bytes(content))
    assert damage.counts["refused"] > n / 2
    tally(f"byte flips in {len(damage.files)} files, run {run.status}: {dict(damage.counts)} of {n}, 0 silent")


@trials("cuts", quick=20, full=100)
def test_a_cut_is_refused(run, tally, n):
    damage, draw = Damage(run), random.Random(n)
    for trial in range(n):
        path = damage.files[trial % len(damage.files)]
        content = path.read_bytes()
        damage.try_with(path, content[: draw.randrange(len(content))])
    assert damage.counts["harmless"] <= 0.1 * n
    tally(f"truncations of {len(damage.files)} files, run {run.status}: {dict(damage.counts)} of {n}, 0 silent")


@pytest.mark.slow
def test_every_bit_of_a_small_checkpoint(tmp_path, tally):
    whole, flipped = tmp_path / "whole.pt", tmp_path / "flipped.pt"
    save_checkpoint(whole, torch.nn.Linear(3, 2), about={"data": "digits"}, training={"index": 7, "o": torch.ones(2)})
    content, before, counts = whole.read_bytes(), weights_in(whole), Counter()
    for at in range(len(content)):
        for bit in range(8):
            flipped.write_bytes(content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :])
            found = outcome(weights_in, flipped)
            assert isinstance(found, CheckpointError) or found == before, f"bit {bit} of byte {at} is silent"
            counts["refused" if isinstance(found, CheckpointError) else "harmless"] += 1
    tally(f"every bit of a checkpoint of {len(content):,} bytes: {dict(counts)} of {8 * len(content):,}, 0 silent")


def test_an_edited_checkpoint_is_named_and_the_one_before_is_offered(run):
    run.set_status("running")
    newest, before = (run.path / name for name in sorted(run.files("checkpoints"), reverse=True)[:2])
    expected = run._manifest.files[newest.relative_to(run.path).as_posix()]
    content = torch.load(newest, weights_only=True)
    content["model"]["1.bias"] += 1e-3
    torch.save(content, newest)
    with pytest.raises(CheckpointError) as error:
        Checkpoints(run, TrainConfig(), about={}).newest()
    said = str(error.value)
    assert said.startswith(f"{newest} is damaged: expected SHA-256 {expected[:16]}…, found ")
    assert said.endswith(f"delete it to resume from {before.relative_to(run.path).as_posix()}")
    newest.unlink()
    found, origin = Checkpoints(run, TrainConfig(), about={}).newest()
    assert origin == str(before)
    assert found.training["index"] == 4
