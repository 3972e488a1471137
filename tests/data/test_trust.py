"""Damaged and hostile files: only our errors come out, nothing is executed, nothing large is allocated."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from deepprobe.data import load_dataset
from deepprobe.data.readers import picture
from deepprobe.data.readers.arraypickle import read_array_pickle
from deepprobe.data.readers.bounded import read_bounded, read_members
from deepprobe.data.readers.cifar import decode_binary, decode_python
from deepprobe.data.readers.idx import read_idx, read_idx_labels
from deepprobe.data.readers.picture import read_mosaic, read_picture
from deepprobe.errors import DataError

many = settings(max_examples=500, deadline=10_000, suppress_health_check=[HealthCheck.too_slow])


def message(function, *arguments, **options) -> str:
    with pytest.raises(DataError) as caught:
        function(*arguments, **options)
    return str(caught.value)


def only_data_errors(function, *arguments, **options) -> object:
    said = ""
    try:
        return function(*arguments, **options)
    except DataError as error:
        said = str(error)
    assert 10 < len(said) < 2000
    return None


# ---- IDX


@many
@given(st.binary(max_size=40), st.sampled_from([(3,), (5, 2, 2)]), st.booleans())
def test_idx_of_random_bytes(scratch: Path, content: bytes, shape: tuple[int, ...], compress: bool) -> None:
    path = scratch / "random"
    path.write_bytes(gzip.compress(content) if compress else content)
    only_data_errors(read_idx, path, shape)


@many
@given(st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3), st.binary(max_size=30))
@example([2**31, 28, 28], b"")
@example([2**32 - 1, 2**32 - 1, 2**32 - 1], b"")
def test_idx_of_random_headers(scratch: Path, sizes: list[int], body: bytes) -> None:
    path = scratch / "header"
    path.write_bytes(struct.pack(">I3I", 0x803, *sizes) + body)
    tracemalloc.start()
    array = only_data_errors(read_idx, path, (5, 2, 2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    if array is not None:
        assert array.tobytes() == body


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected an IDX file of 3 dimensions, magic 0x00000803, found 0x"),
        (b"\x00\x00\x08\x01\x00", "expected an IDX file of 3 dimensions, magic 0x00000803, found 0x00000801"),
        (b"\x00\x00\x08\x03\x00\x00", "the IDX header is truncated, 6 of 16 bytes"),
        (
            struct.pack(">4I", 0x803, 2**31, 2, 2),
            "expected sizes 5×2×2 (or fewer items), found 2147483648×2×2",
        ),
        (struct.pack(">4I", 0x803, 0, 2, 2), "expected sizes 5×2×2 (or fewer items), found 0×2×2"),
        (
            struct.pack(">4I", 0x803, 2, 2, 2) + b"1234567",
            "expected 8 bytes after the header for sizes 2×2×2, found 7",
        ),
        (
            struct.pack(">4I", 0x803, 2, 2, 2) + b"123456789",
            "expected 8 bytes after the header for sizes 2×2×2, found more",
        ),
        (struct.pack(">4I", 0x803, 5, 2, 2) + bytes(21), "expected at most 36 bytes of content, found more"),
    ],
)
def test_idx_messages(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    assert message(read_idx, path, (5, 2, 2)) == f"{path}: {said}"


def test_labels_out_of_range_and_counts_that_differ(make: SimpleNamespace, tmp_path: Path) -> None:
    labels = make.put(tmp_path / "t10k-labels-idx1-ubyte", make.idx(np.array([0, 10])))
    assert message(read_idx_labels, labels, 5, 10) == f"{labels}: expected labels 0 … 9, found 10"
    make.put(labels, make.idx(np.array([0, 9])))
    images = make.put(tmp_path / "t10k-images-idx3-ubyte", make.idx(np.zeros((3, 28, 28))))
    said = message(load_dataset, "mnist", data_dir=tmp_path, split="test")
    assert said == f"{images}: 3 images, but {labels} has 2 labels"


# ---- gzip


@many
@given(st.data())
def test_damaged_gzip(scratch: Path, data: st.DataObject) -> None:
    whole = bytearray(gzip.compress(struct.pack(">4I", 0x803, 3, 2, 2) + bytes(range(12)), mtime=0))
    if data.draw(st.booleans()):
        content = bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        content = bytes(whole)
    path = scratch / "damaged"
    path.write_bytes(content)
    array = only_data_errors(read_idx, path, (5, 2, 2))
    assert array is None or array.tobytes() == bytes(range(12))


def test_gzip_messages(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    whole = gzip.compress(b"0123456789")
    path.write_bytes(whole[:-4])
    assert message(read_bounded, path, limit=10) == f"{path}: the gzip data are truncated"
    path.write_bytes(whole + b"!")
    assert message(read_bounded, path, limit=10) == f"{path}: more bytes follow the end of the gzip data"
    path.write_bytes(whole)
    assert message(read_bounded, path, limit=9) == f"{path}: expected at most 9 bytes of content, found more"
    assert read_bounded(path, limit=10) == b"0123456789"
    assert message(read_bounded, tmp_path, limit=9) == f"{tmp_path}: cannot be read (Is a directory)"


def test_gzip_bomb_stops_at_the_limit(tmp_path: Path) -> None:
    squeeze = zlib.compressobj(9, wbits=31)
    path = tmp_path / "bomb.gz"
    path.write_bytes(b"".join(squeeze.compress(bytes(2**20)) for _ in range(512)) + squeeze.flush())
    tracemalloc.start()
    assert "expected at most 100000 bytes of content, found more" in message(read_bounded, path, limit=100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21


# ---- pickles


class Harm:
    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def harmful(path: Path) -> list[bytes]:
    mark = str(path)
    return [
        *(pickle.dumps({"data": Harm(os.system, f"touch {mark}")}, protocol=p) for p in range(6)),
        *(pickle.dumps(Harm(eval, f"open({mark!r}, 'w')"), protocol=p) for p in range(6)),
        f"cos\nsystem\n(S'touch {mark}'\ntR.".encode(),
        f"(S'touch {mark}'\nios\nsystem\n.".encode(),
        b"\x80\x02}(U\x04dataq\x00cbuiltins\nopen\nX" + struct.pack("<I", len(mark)) + mark.encode() + b"U\x01w\x86Ru.",
        b"\x80\x02cnumpy\nndarray\nU\x01w\x85R.",
        b"\x80\x02cnumpy.testing._private.utils\nrunstring\nX" + struct.pack("<I", 2) + b"1;X\x00\x00\x00\x00\x86R.",
        b"\x80\x02c_codecs\nencode\nX\x03\x00\x00\x00abcX\x05\x00\x00\x00rot13\x86R.",
        b"\x80\x02c_codecs\nencode\ncos\nsystem\n\x86R.",
        pickle.dumps({"data": Path("x")}, protocol=2),
        pickle.dumps({"data": np.array([print], dtype=object)}, protocol=2),
    ]


def test_nothing_in_a_pickle_is_called(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    for content in harmful(mark):
        only_data_errors(decode_python, content, "batch", key="labels", n=5, n_classes=10)
        with pytest.raises(DataError, match=r"not a pickle of a CIFAR batch|expected a dictionary"):
            read_array_pickle(content, "batch")
    assert not mark.exists()


def test_the_same_pickles_would_harm_a_plain_reader(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    pickle.loads(harmful(mark)[2])
    assert mark.exists()


INSTRUCTIONS = st.lists(
    st.one_of(
        st.sampled_from([bytes([b]) for b in b"}])N\x88\x89(t\x85\x86\x87aesuRb.0122.PQiodl"]),
        st.builds(lambda c, i: c + bytes([i]), st.sampled_from([b"K", b"q", b"h", b"\x80"]), st.integers(0, 3)),
        st.builds(lambda t: b"U" + bytes([len(t)]) + t, st.sampled_from([b"data", b"labels", b"u1", b"b", b"|"])),
        st.sampled_from(
            [
                b"cnumpy\nndarray\n",
                b"cnumpy\ndtype\n",
                b"cnumpy.core.multiarray\n_reconstruct\n",
                b"c_codecs\nencode\n",
                b"cos\nsystem\n",
                b"X\x02\x00\x00\x00hi",
                b"X\x06\x00\x00\x00latin1",
                b"\x8a\x01\x05",
                b"\x8a\xff",
                b"T\xff\xff\xff\xff",
                b"B\xff\xff\xff\xff",
                b"X\xff\xff\xff\x7f",
            ]
        ),
    ),
    max_size=40,
)


@many
@given(st.one_of(st.binary(max_size=60), INSTRUCTIONS.map(lambda parts: b"\x80\x02" + b"".join(parts) + b".")))
def test_pickles_of_random_instructions(content: bytes) -> None:
    found = only_data_errors(read_array_pickle, content, "batch")
    assert found is None or isinstance(found, dict)


@many
@given(st.data())
def test_damaged_pickles(make: SimpleNamespace, data: st.DataObject) -> None:
    images, labels = make.photos(2)
    writer = make.python2_batch if data.draw(st.booleans()) else make.python3_batch
    whole = bytearray(writer(images, labels))
    head = st.one_of(st.integers(0, 260), st.integers(0, len(whole) - 1))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(head)] = data.draw(st.integers(0, 255))
    content = bytes(whole[: data.draw(st.one_of(st.just(len(whole)), head))])
    batch = only_data_errors(decode_python, content, "batch", key="labels", n=5, n_classes=10)
    if batch is not None:
        assert batch[0].shape[1:] == (32, 32, 3)
        assert 0 <= batch[1].min() <= batch[1].max() < 10


@pytest.mark.parametrize("side", [b"\x8a\x09" + b"\xff" * 8 + b"\x7f", b"K\x00", b"J\xff\xff\xff\xff", b"\x88", b"N"])
def test_sizes_of_arrays(side: bytes) -> None:
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    state = b"(K\x01K\x00" + side + b"\x86cnumpy\ndtype\nU\x02u1\x85R\x89U\x00tb"
    said = message(read_array_pickle, b"\x80\x02}U\x04data" + array + state + b"s.", "batch")
    assert said.endswith("the shape of an array does not fit its content")


def test_pickle_bombs_end_early() -> None:
    assert "more than 1000000 instructions" in message(read_array_pickle, b"\x80\x02" + b"N" * 2_100_000, "batch")
    text = b"X" + struct.pack("<I", 50_000) + b"a" * 50_000 + b"q\x00"
    encode = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    tracemalloc.start()
    said = message(read_array_pickle, b"\x80\x02" + text + encode * 10_000 + b".", "batch")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "the byte strings are longer than the file" in said
    assert peak < 2**22
    doubling = b"\x80\x02]q\x00" + b"".join(b"]q%c(h%ch%ce" % (i, i - 1, i - 1) for i in range(1, 100)) + b"."
    assert message(read_array_pickle, doubling, "batch") == "batch: expected a dictionary, found list"
    only_data_errors(read_array_pickle, b"\x80\x02}(U\x01a" + b"(" * 200_000 + b"t" * 200_000 + b"u.", "batch")


def test_what_a_batch_must_hold(make: SimpleNamespace) -> None:
    images, labels = make.photos(3)
    rows = images.reshape(3, -1)

    def said(batch: object, **options) -> str:
        given = {"key": "labels", "n": 5, "n_classes": 10} | options
        return message(decode_python, pickle.dumps(batch, protocol=2), "batch", **given)

    assert said([]) == "batch: expected a dictionary, found list"
    assert said({"data": rows, "coarse": labels}) == (
        "batch: expected the keys 'data' and 'labels', found 'data', 'coarse'"
    )
    assert said({"data": rows[:, :5], "labels": labels}) == (
        "batch: expected 'data' of shape 1 … 5 × 3072, found shape (3, 5)"
    )
    assert said({"data": rows, "labels": labels}, n=2) == (
        "batch: expected 'data' of shape 1 … 2 × 3072, found shape (3, 3072)"
    )
    assert said({"data": [], "labels": labels}) == "batch: expected 'data' of shape 1 … 5 × 3072, found a list"
    assert said({"data": rows, "labels": labels[:2]}) == "batch: expected a list of 3 labels, one an image, found 2"
    assert said({"data": rows, "labels": 3}) == "batch: expected a list of 3 labels, one an image, found a int"
    for wrong in ([0, 1, 10], [0, 1, -1], [0, 1, True], [0, 1, "2"]):
        assert said({"data": rows, "labels": wrong}) == "batch: expected labels 0 … 9, found others"
    assert "is not that of an array of bytes" in said({"data": np.asfortranarray(rows), "labels": labels})
    assert "dtype is called with arguments" in said({"data": rows.astype(float), "labels": labels})
    assert "instruction 0x94 is not allowed" in message(
        read_array_pickle, b"\x80\x03" + pickle.dumps({}, protocol=4)[2:], "batch"
    )
    assert message(read_array_pickle, pickle.dumps({}, protocol=4), "batch") == (
        "batch: not a pickle of a CIFAR batch, at byte 2: expected protocol 2 or 3, found 4"
    )


# ---- binary CIFAR


@many
@given(st.one_of(st.binary(max_size=50), st.integers(0, 4).map(lambda n: bytes([200, 1] * (3073 * n // 2)))))
def test_binary_of_random_bytes(content: bytes) -> None:
    only_data_errors(decode_binary, content, "b.bin", n_label_bytes=1, n=2, n_classes=10)


def test_binary_messages() -> None:
    options = {"n_label_bytes": 1, "n": 2, "n_classes": 10}
    assert message(decode_binary, bytes(3074), "b.bin", **options) == (
        "b.bin: expected 1 … 2 images of 3073 bytes, found 3074 bytes"
    )
    assert message(decode_binary, b"\x0a" + bytes(3072), "b.bin", **options) == (
        "b.bin: expected labels 0 … 9, found 10"
    )


# ---- archives


def archive(*members: tarfile.TarInfo, compress: bool = True) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz" if compress else "w") as file:
        for member in members:
            file.addfile(member, io.BytesIO(bytes(member.size)))
    return out.getvalue()


def member(name: str, *, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def test_archive_members(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(archive(member("../x", size=3), member("/x", size=3), member("d/x", size=3)))
    assert message(read_members, path, ["x"], limit=10, total=20_000) == f"{path}: the archive lacks x"
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(archive(member("x", kind=tarfile.SYMTYPE, link="/etc/passwd"), member("./x", size=3)))
    assert read_members(path, ["x"], limit=10, total=20_000) == {"x": bytes(3)}
    path.write_bytes(archive(member("x", kind=tarfile.LNKTYPE, link="y"), member("y", kind=tarfile.FIFOTYPE)))
    assert message(read_members, path, ["x", "y"], limit=10, total=20_000) == f"{path}: the archive lacks x, y"
    path.write_bytes(archive(member("x", size=11)))
    assert (
        message(read_members, path, ["x"], limit=10, total=20_000) == f"{path}: x claims 11 bytes, expected at most 10"
    )
    path.write_bytes(archive(*(member(f"m{i}") for i in range(70))))
    assert message(read_members, path, ["x"], limit=10, total=10**6) == (
        f"{path}: expected at most 64 archive members, found more"
    )
    path.write_bytes(archive(member("big", size=10**6), member("x", size=1)))
    assert "bytes of content, found more" in message(read_members, path, ["x"], limit=10, total=20_000)
    path.write_bytes(b"no archive at all")
    assert message(read_members, path, ["x"], limit=10, total=20_000).startswith(
        f"{path}: cannot be read as a tar archive ("
    )


@many
@given(st.data())
def test_damaged_archives(scratch: Path, data: st.DataObject) -> None:
    whole = bytearray(archive(member("x", size=20), member("y", size=600), compress=False))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, 1600))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):  # a header that is wrong in itself but carries the right sum
        whole[124:136] = data.draw(st.binary(min_size=12, max_size=12))
        whole[156:157] = data.draw(st.sampled_from([b"0", b"L", b"x", b"g", b"S", b"K", b"2", b"5"]))
        whole[148:156] = b" " * 8
        whole[148:156] = b"%06o\0 " % sum(whole[:512])
    content = bytes(whole[: data.draw(st.sampled_from([len(whole), 700, 100]))])
    path = scratch / "damaged.tar"
    path.write_bytes(gzip.compress(content) if data.draw(st.booleans()) else content)
    found = only_data_errors(read_members, path, ["x", "y"], limit=5000, total=20_000)
    assert found is None or list(found) == ["x", "y"]


# ---- pictures


def test_mosaic_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "test.avif"
    Image.new("RGB", (320, 32)).save(path, format="AVIF")
    assert message(read_mosaic, path) == f"{path}: expected a picture of 3200×3200 pixels, found 320×32"
    Image.new("RGB", (32, 32)).save(path, format="PNG")
    assert message(read_mosaic, path) == f"{path}: expected a picture (AVIF), found something else"
    monkeypatch.setattr(features, "check", lambda name: False)
    assert message(read_mosaic, path) == (
        f"{path}: this Pillow cannot read AVIF; install pillow 11.3 or newer from its wheels"
    )


def test_mosaic_tiles_stand_row_by_row(tmp_path: Path) -> None:
    grid = np.arange(10_000).reshape(100, 100)
    pixels = np.stack([grid // 100 * 2, grid % 100 * 2, np.full_like(grid, 128)], axis=-1).astype(np.uint8)
    path = tmp_path / "test.avif"
    large = np.repeat(np.repeat(pixels, 32, axis=0), 32, axis=1)
    Image.fromarray(large).save(path, format="AVIF", quality=95, subsampling="4:4:4", speed=10)
    found = read_mosaic(path)
    assert found.shape == (10_000, 32, 32, 3)
    assert np.abs(found.mean(axis=(1, 2)) - pixels.reshape(-1, 3)).max() < 5


def test_mosaics_need_all_labels(make: SimpleNamespace, tmp_path: Path) -> None:
    labels = make.put(tmp_path / "cifar10" / "test-labels-idx1-ubyte", make.idx(np.array([1, 2])))
    make.put(tmp_path / "cifar10" / "test.avif", b"")
    assert message(load_dataset, "cifar10", data_dir=tmp_path, split="test") == (
        f"{labels}: expected 10000 labels, found 2"
    )


def test_picture_bombs_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.png"

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for side in (10_000, 60_000):
        header = chunk(b"IHDR", struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
        assert message(read_picture, path).startswith(f"{path}: the picture claims too many pixels (")
    monkeypatch.setattr(picture, "MAX_FILE", 10)
    assert message(read_picture, path) == f"{path}: expected at most 10 bytes, found {path.stat().st_size}"


def test_picture_kinds(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    for mode, channels in (("1", 1), ("L", 1), ("LA", 3), ("P", 3), ("RGB", 3), ("RGBA", 3)):
        Image.new(mode, (4, 2)).save(path)
        assert read_picture(path).shape == (2, 4, channels)
    Image.new("I;16", (4, 2)).save(path)
    assert message(read_picture, path) == (f"{path}: expected 8-bit grey or colour pixels, found Pillow's mode 'I;16'")
    assert message(read_picture, tmp_path / "none.png").startswith(f"{tmp_path}/none.png: the picture cannot be read (")


@many
@given(st.data())
def test_damaged_pictures(scratch: Path, data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(picture.FORMATS))
    out = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(out, format=form)
    whole = bytearray(out.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = scratch / "damaged.picture"
    path.write_bytes(whole[: data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))])
    found = only_data_errors(read_picture, path)
    assert found is None or found.dtype == np.uint8
