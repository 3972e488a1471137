"""Checkpoints come back bit for bit; damaged, hostile and foreign ones are refused, and nothing in them runs."""

from __future__ import annotations

import os
import pickle
import random
import time
import tracemalloc
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from deepprobe.errors import CheckpointError, RunError
from deepprobe.training import load_checkpoint, load_weights, save_checkpoint


@pytest.fixture
def saved(tmp_path, net):
    """A net with a zoo name, and its checkpoint."""
    model = net(3)
    model.deepprobe_config = {"name": "small", "num_classes": 10}
    path = tmp_path / "w.pt"
    save_checkpoint(path, model, about={"data": "digits"}, training={"index": 7, "optimizer": {0: torch.ones(2)}})
    return model, path


def equal(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[k], other[k]) for k in state)


def test_all_of_it_comes_back(saved):
    model, path = saved
    found = load_checkpoint(path)
    assert equal(found.weights, model.state_dict())
    assert (found.deepprobe_config, found.about) == ({"name": "small", "num_classes": 10}, {"data": "digits"})
    assert found.training is not None
    assert found.training["index"] == 7


def test_weights_go_into_a_model_of_the_same_shape(saved, net):
    model, path = saved
    other = net(4)
    assert load_weights(other, path).about == {"data": "digits"}
    assert equal(other.state_dict(), model.state_dict())


def test_a_bare_state_dict_and_safetensors_are_read_too(tmp_path, net):
    model = net(3)
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    save_file(model.state_dict(), tmp_path / "w.safetensors", metadata={"deepprobe_config": '{"name": "small"}'})
    for name, config in (("bare.pth", None), ("w.safetensors", {"name": "small"})):
        other = net(4)
        assert load_weights(other, tmp_path / name).deepprobe_config == config
        assert equal(other.state_dict(), model.state_dict())


def test_another_model_is_told_what_does_not_fit_and_stays_as_it_was(saved, net):
    _, path = saved
    other = net(4)
    other.classifier = nn.Linear(256, 3)
    other.act1 = nn.PReLU()
    del other.conv2
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_weights(other, path)
    assert str(error.value) == (
        f"the weights of {path} are not those of this Sequential: 'classifier.bias' is (10,), not (3,); "
        "'classifier.weight' is (10, 256), not (3, 256); 1 missing ('act1.weight'); 2 not in the model ('conv2.bias')"
    )
    assert equal(other.state_dict(), before)


class Bad:
    """What makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("loosened", [False, True])
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "nested"])
def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path, monkeypatch, form, loosened):
    if loosened:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark, path = tmp_path / "executed", tmp_path / "bad.pt"
    bad = Bad(mark)
    if form == "pickle":
        path.write_bytes(pickle.dumps(bad))
    else:
        content = {"model": {"w": torch.ones(1), "x": bad}} if form == "nested" else bad
        torch.save(content, path, _use_new_zipfile_serialization=form != "legacy")
    with pytest.raises(CheckpointError, match=r"bad\.pt"):
        load_checkpoint(path)
    assert not mark.exists()


def test_what_a_pickle_asks_for_is_named(tmp_path):
    torch.save({"model": Bad(tmp_path / "x")}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "bad.pt")
    expected = f"{tmp_path / 'bad.pt'} is refused: it asks for 'posix system', which no table of tensors needs; "
    expected += "of a whole network save model.state_dict()"
    assert str(error.value) == expected
    torch.save({"model": bytearray(10)}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="which no table of tensors needs"):
        load_checkpoint(tmp_path / "b.pt")


def refused_quickly(path, match):
    tracemalloc.start()
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - started < 2
    assert peak < 50e6


def test_a_tensor_larger_than_its_bytes_is_refused(tmp_path):
    path = tmp_path / "bomb.pt"
    torch.save({"w": torch.zeros(1).expand(10**10)}, path)
    refused_quickly(path, r"bomb\.pt: tensor w claims 10,000,000,000 elements and holds 4 bytes$")


def test_a_compressed_archive_is_refused(tmp_path):
    plain, path = tmp_path / "plain.pt", tmp_path / "bomb.pt"
    torch.save({"w": torch.zeros(10**7)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert path.stat().st_size < 10**5
    refused_quickly(path, r"bomb\.pt is compressed \(40,\d{3},\d{3} bytes when unpacked\); checkpoints never are$")


def test_a_flipped_byte_is_noticed_or_harmless(saved):
    _, path = saved
    content, draw, refused = path.read_bytes(), random.Random(0), 0
    before = load_checkpoint(path)
    for _ in range(150):
        at = draw.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :])
        found = outcome(path)
        if isinstance(found, CheckpointError):
            assert str(path) in str(found)
            refused += 1
        else:
            assert equal(found.weights, before.weights)
            assert (found.deepprobe_config, found.about) == (before.deepprobe_config, before.about)
    assert refused > 75


def outcome(path):
    """The checkpoint, or the error."""
    try:
        return load_checkpoint(path)
    except CheckpointError as error:
        return error


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_files_are_refused_by_name(tmp_path, saved, suffix):
    model, path = saved
    if suffix == ".safetensors":
        path = tmp_path / "w.safetensors"
        save_file(model.state_dict(), path)
    content, draw = path.read_bytes(), random.Random(0)
    for cut in [0, 1, 8, len(content) - 1, *(draw.randrange(len(content)) for _ in range(30))]:
        path.write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match=rf"w\{suffix}"):
            load_checkpoint(path)


leaves = st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.booleans()
tables = st.dictionaries(
    st.sampled_from(["model", "format", "deepprobe_config", "about", "training", "w"]) | st.integers(0, 3),
    st.recursive(
        leaves | st.builds(torch.ones, st.integers(0, 3)),
        lambda x: st.lists(x, max_size=2) | st.dictionaries(st.text(max_size=3) | st.integers(0, 2), x, max_size=2),
        max_leaves=4,
    ),
    max_size=5,
)


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=tables | leaves, junk=st.binary(max_size=60))
def test_malformed_files_raise_checkpoint_errors_only(tmp_path_factory, net, content, junk):
    path = tmp_path_factory.getbasetemp() / "odd.pt"
    model = net()
    if junk[:1] < b"\x20":
        path.write_bytes(junk)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"odd\.pt"):
        load_weights(model, path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "none.pt")
    assert str(error.value) == f"there is no checkpoint {tmp_path / 'none.pt'}"


def test_a_full_disk_keeps_the_old_file(saved, net, monkeypatch):
    model, path = saved

    def full(*_, **__):
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 1088 vs 982\n at frame")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match=r"^cannot write .*w\.pt: RuntimeError: .* vs 982; what was there before is unt"):
        save_checkpoint(path, net(9))
    assert equal(load_checkpoint(path).weights, model.state_dict())
    assert [p.name for p in path.parent.iterdir()] == ["w.pt"]
