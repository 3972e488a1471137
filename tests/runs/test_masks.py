"""Masks on disk: packed and read back bit by bit by a loop of our own, damaged and hostile files refused."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from safetensors.numpy import save

from deepprobe.errors import RunError
from deepprobe.models import create_model
from deepprobe.runs.arrays import MAX_HEADER_BYTES
from deepprobe.runs.masks import read_masks, write_masks

DRAW = np.random.default_rng(0)
MASKS = {
    "conv.weight": DRAW.random((3, 2, 3, 3)) < 0.4,
    "<b>&.weight": DRAW.random((5, 7)) < 0.7,
    "κ": np.ones(8, dtype=bool),
    "none": np.zeros((4, 4), dtype=bool),
    "scalar": np.array(True),
    "empty": np.zeros((0, 3), dtype=bool),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "masks.safetensors"
    write_masks(path, MASKS)
    return path


def file_of(path, tensors, masks, **metadata):
    """Write a safetensors file of any content under the form of masks."""
    text = masks if isinstance(masks, str) else json.dumps(masks)
    path.write_bytes(save(tensors, metadata={"masks": text} | metadata))


def bits_by_loop(mask):
    """Bytes of eight entries, the first in the highest bit."""
    flat = [bool(v) for v in mask.ravel().tolist()]
    flat += [False] * (-len(flat) % 8)
    return bytes(sum(bit << (7 - i) for i, bit in enumerate(flat[j : j + 8])) for j in range(0, len(flat), 8))


def test_masks_come_back_with_names_shapes_and_order(path):
    found = read_masks(path)
    assert list(found) == list(MASKS)
    for name, mask in MASKS.items():
        assert found[name].dtype == np.bool_
        assert found[name].shape == mask.shape
        assert np.array_equal(found[name], mask)


def test_the_file_holds_the_bits_that_a_loop_packs(path):
    content = path.read_bytes()
    packed = b"".join(bits_by_loop(mask) for mask in MASKS.values())
    assert content.endswith(packed)
    assert len(content) == 8 + int.from_bytes(content[:8], "little") + len(packed)


def test_a_view_that_is_not_contiguous_is_written_as_it_reads(tmp_path):
    mask = (DRAW.random((6, 10)) < 0.5).T[::2]
    write_masks(tmp_path / "m", {"w": mask})
    assert np.array_equal(read_masks(tmp_path / "m")["w"], mask)


def test_what_is_read_may_be_changed_without_changing_the_file(path):
    found = read_masks(path)
    found["κ"][0] = False
    assert read_masks(path)["κ"].all()


def test_masks_of_resnet_164_take_a_quarter_of_a_megabyte(tmp_path):
    network = create_model("preresnet164")
    shapes = {name: p.shape for name, p in network.named_parameters() if p.ndim > 1}
    assert sum(shape.numel() for shape in shapes.values()) == 1_679_024
    path = tmp_path / "masks.safetensors"
    write_masks(path, {name: DRAW.random(shape) < 0.5 for name, shape in shapes.items()})
    assert path.stat().st_size <= 250_000


def test_only_booleans_are_masks(tmp_path):
    with pytest.raises(RunError, match="the mask of 'w' is of float32, expected bool"):
        write_masks(tmp_path / "m", {"w": np.ones(3, dtype=np.float32)})
    assert not (tmp_path / "m").exists()


def test_what_could_not_be_read_back_is_not_written(tmp_path):
    names = {"n" * 100 + str(i): np.ones(1, dtype=bool) for i in range(MAX_HEADER_BYTES // 150)}
    with pytest.raises(RunError, match=r"masks in .* bytes are too many to read"):
        write_masks(tmp_path / "m", names)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(RunError, match="there is no file"):
        read_masks(tmp_path / "none.safetensors")


def test_every_truncation_is_refused(path):
    content = path.read_bytes()
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        with pytest.raises(RunError, match=r"masks\.safetensors is damaged"):
            read_masks(path)


def test_flipped_bits_are_refused_or_are_other_masks_of_the_same_shapes(path):
    content, draw = path.read_bytes(), random.Random(3)
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(400):
        at = draw.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :])
        try:
            found = read_masks(path)
        except RunError:
            continue
        assert all(mask.dtype == np.bool_ for mask in found.values())
        if at >= header:
            assert {k: m.shape for k, m in found.items()} == {k: m.shape for k, m in MASKS.items()}


BYTES = np.full(2, 0b1010_0000, dtype=np.uint8)


@pytest.mark.parametrize(
    ("tensors", "masks", "words"),
    [
        ({"0": BYTES}, [["w", [10]]], "bits after the last entry"),
        ({"0": BYTES}, [["w", [8]]], r"uint8 of shape \(2,\) for the mask 'w' of shape \[8\]"),
        ({"0": BYTES}, [["w", [17]]], "for the mask 'w'"),
        ({"0": BYTES}, [["w", [2**62, 2**62]]], "for the mask 'w'"),
        ({"0": BYTES}, [["w", [-4, -4]]], "a name and a shape"),
        ({"0": BYTES}, [["w", [True, 16]]], "a name and a shape"),
        ({"0": BYTES}, [["w", [16.0]]], "a name and a shape"),
        ({"0": BYTES}, [["w", "16"]], "a name and a shape"),
        ({"0": BYTES}, [[7, [16]]], "a name and a shape"),
        ({"0": BYTES}, [["w", [1] * 100_000 + [16]]], "damaged"),
        ({"0": BYTES[:0]}, [["w", [0, 10**30]]], "damaged"),
        ({"0": BYTES.astype(np.float32)}, [["w", [16]]], "float32"),
        ({"0": BYTES.reshape(1, 2)}, [["w", [16]]], r"shape \(1, 2\)"),
        ({"0": BYTES}, [["w", [16]], ["v", [16]]], "damaged"),
        ({"0": BYTES, "1": BYTES}, [["w", [16]]], "tensors that are not those of the masks named"),
        ({"0": BYTES, "1": BYTES}, [["w", [16]], ["w", [16]]], "1 names for 2 masks"),
        ({"0": BYTES}, "[" * 100_000, "damaged"),
        ({"0": BYTES}, "{}", "damaged|more tensors"),
        ({"0": BYTES}, "null", "damaged"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, tensors, masks, words):
    file_of(tmp_path / "m", tensors, masks)
    with pytest.raises(RunError, match=words):
        read_masks(tmp_path / "m")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "m"
    for content in (b"", b"PK\x03\x04", b"\x80\x04K\x01.", save({"a": BYTES}), bytes([255] * 64)):
        path.write_bytes(content)
        with pytest.raises(RunError, match="is damaged: expected masks in safetensors"):
            read_masks(path)
    with path.open("wb") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(RunError, match=r"has 1,073,741,825 bytes; at most 1,073,741,824 were expected"):
        read_masks(path)
