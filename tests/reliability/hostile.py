"""Files that a hostile hand would make, and what deepprobe makes of them: run as a script, prints one JSON line a case.

Each case runs in a fork, so that its time and its growth in memory are its own.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import resource
import sqlite3
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save as tensors_to_bytes

from deepprobe.cli.options import read_toml
from deepprobe.cli.train import TrainOptions
from deepprobe.data import load_dataset
from deepprobe.data.readers.picture import read_mosaic, read_picture
from deepprobe.errors import DeepprobeError
from deepprobe.integrations.stored_model import read_checkpoint, rebuild
from deepprobe.runs import create_run, open_run
from deepprobe.runs.manifest import Manifest, digest_of_file
from deepprobe.training import load_checkpoint, save_checkpoint

ROOT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
CASES = {}


def case(function):
    """A function that makes a hostile file in a folder and returns what reads it."""
    CASES[function.__name__] = function
    return function


class Bad:
    def __reduce__(self):
        return (os.system, (f"touch {ROOT / 'executed'}",))


def loads(path):
    return lambda: load_checkpoint(path)


# ---- pickles


def pickled(folder, name, content, **options):
    torch.save(content, folder / name, **options)
    return loads(folder / name)


@case
def pickle_in_a_zip(folder):
    return pickled(folder, "a.pt", Bad())


@case
def pickle_among_weights(folder):
    return pickled(folder, "a.pt", {"model": {"w": torch.ones(1), "x": Bad()}})


@case
def pickle_in_the_old_format(folder):
    return pickled(folder, "a.pt", Bad(), _use_new_zipfile_serialization=False)


def bare(folder, name):
    (folder / name).write_bytes(pickle.dumps(Bad()))
    return folder / name


@case
def pickle_bare_pt(folder):
    return loads(bare(folder, "a.pt"))


@case
def pickle_bare_pkl(folder):
    return loads(bare(folder, "a.pkl"))


@case
def pickle_as_safetensors(folder):
    return loads(bare(folder, "a.safetensors"))


@case
def pickle_in_npy(folder):
    np.save(folder / "a.npy", np.array([Bad()], dtype=object), allow_pickle=True)
    return loads(folder / "a.npy")


@case
def pickle_in_npz(folder):
    np.savez(folder / "a.npz", data=np.array([Bad()], dtype=object), allow_pickle=True)
    return loads(folder / "a.npz")


@case
def pickle_as_cifar_batch(folder):
    (folder / "cifar-10-batches-py").mkdir()
    bare(folder, "cifar-10-batches-py/test_batch")
    return lambda: load_dataset("cifar10", data_dir=folder, split="test")


@case
def pickle_in_a_cifar_archive(folder):
    content = pickle.dumps(Bad(), protocol=2)
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return lambda: load_dataset("cifar10", data_dir=folder, split="test")


# ---- archives and weights


@case
def deflated_checkpoint(folder):
    plain = io.BytesIO()
    torch.save({"w": torch.zeros(10**8)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(folder / "a.pt", "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry), zipfile.ZIP_DEFLATED, 1)
    return loads(folder / "a.pt")


@case
def npz_bomb(folder):
    np.savez_compressed(folder / "a.npz", data=np.zeros(10**8, np.uint8))
    return loads(folder / "a.npz")


@case
def stride_zero(folder):
    return pickled(folder, "a.pt", {"w": torch.zeros(1).expand(10**12)})


@case
def stride_zero_in_the_state_of_training(folder):
    content = {"format": 1, "model": {"w": torch.ones(1)}, "training": {"x": [torch.zeros(1).expand(10**12)]}}
    return pickled(folder, "a.pt", content)


@case
def a_storage_larger_than_its_part(folder):
    whole = io.BytesIO()
    torch.save({"w": torch.ones(3)}, whole)
    content, table = whole.getvalue(), zipfile.ZipFile(whole).read("archive/data.pkl")
    edited = table.replace(b"cpuq\x06K\x03tq", b"cpuq\x06K\xf0tq").replace(b"K\x03\x85", b"K\xf0\x85")
    assert table != edited
    crc, wrong = (zlib.crc32(t).to_bytes(4, "little") for t in (table, edited))
    (folder / "a.pt").write_bytes(content.replace(table, edited).replace(crc, wrong))
    return loads(folder / "a.pt")


@case
def two_archives_in_one_file(folder):
    first, second = io.BytesIO(), io.BytesIO()
    torch.save({"w": torch.ones(3)}, first)
    torch.save(Bad(), second)
    (folder / "a.pt").write_bytes(second.getvalue() + first.getvalue())
    return loads(folder / "a.pt")


def archive_of(folder, parts):
    with zipfile.ZipFile(folder / "a.pt", "w") as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    content, start = bytearray((folder / "a.pt").read_bytes()), archive.start_dir
    for name in parts:  # torch.save writes no attributes of files
        content[start + 38 : start + 42] = bytes(4)
        start += 46 + len(f"archive/{name}")
    (folder / "a.pt").write_bytes(content)
    return loads(folder / "a.pt")


@case
def a_table_of_many_instructions(folder):
    return archive_of(folder, {"data.pkl": b"\x80\x02" + b"N" * (16 * 2**20 - 10) + b".", "version": b"3\n"})


@case
def a_table_of_many_lists(folder):
    return archive_of(folder, {"data.pkl": b"\x80\x02" + b"]" * 10**7 + b".", "version": b"3\n"})


@case
def a_table_of_nested_lists(folder):
    n = 60_000
    return archive_of(folder, {"data.pkl": b"\x80\x02" + b"]" * n + b"a" * (n - 1) + b".", "version": b"3\n"})


@case
def a_table_of_many_bytes(folder):
    return archive_of(folder, {"data.pkl": bytes(300 * 2**20), "version": b"3\n"})


@case
def many_parts(folder):
    return archive_of(folder, {f"data/{i}": b"" for i in range(150_000)})


def sparse(path, size, head=b""):
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    return path


@case
def holes_of_a_terabyte(folder):
    return loads(sparse(folder / "a.pt", 2**40))


@case
def holes_as_checkpoint(folder):
    return loads(sparse(folder / "a.pt", 60 * 2**30))


@case
def holes_as_safetensors(folder):
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**33], "data_offsets": [0, 2**35]}}).encode()
    return loads(sparse(folder / "a.safetensors", 8 + len(header) + 2**35, struct.pack("<Q", len(header)) + header))


@case
def safetensors_header_beyond_the_file(folder):
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}")
    return loads(folder / "a.safetensors")


@case
def safetensors_header_of_90_megabytes(folder):
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", 90 * 10**6) + b"[]," * (30 * 10**6))
    return loads(folder / "a.safetensors")


@case
def safetensors_nested(folder):
    header = b'{"__metadata__":' + b"[" * 10**6 + b"]" * 10**6 + b"}"
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return loads(folder / "a.safetensors")


@case
def weights_that_name_a_giant(folder):
    model = torch.nn.Linear(1, 1)
    model.deepprobe_config = {"name": "resnet", "depth": 1202, "base_width": 256}
    save_checkpoint(folder / "a.pt", model)
    return lambda: rebuild(read_checkpoint(folder / "a.pt"), origin="a.pt")


# ---- runs


def a_run(folder):
    run = create_run(folder, name="a", config={}, provenance={})
    run.save_spectra(0, {"k": np.ones(3)})
    return run


def listed(folder, name):
    """Give a file the right digest in the manifest, as who wrote it could."""
    path = folder / "a"
    manifest = Manifest.read(path)
    manifest.with_file(name, digest_of_file(path / name)).write(path)


def manifest_of(folder, content):
    (a_run(folder).path / "manifest.json").write_bytes(content)
    return lambda: open_run(folder / "a")


@case
def manifest_nested(folder):
    return manifest_of(folder, b'{"a":' + b"[" * 10**6 + b"]" * 10**6 + b"}")


@case
def manifest_nested_a_little(folder):
    return manifest_of(folder, b'{"a":' + b"[" * 900 + b"]" * 900 + b"}")


@case
def manifest_of_many_lists(folder):
    return manifest_of(folder, b'{"a":[' + b"[]," * (2 * 2**20 // 3 - 10) + b"[]]}")


@case
def manifest_of_a_giant_number(folder):
    return manifest_of(folder, b'{"a":' + b"9" * 10**6 + b"}")


@case
def manifest_of_holes(folder):
    sparse(a_run(folder).path / "manifest.json", 2**40)
    return lambda: open_run(folder / "a")


@case
def config_nested(folder):
    (a_run(folder).path / "config.json").write_bytes(b'{"a":' * 900 + b"1" + b"}" * 900)
    listed(folder, "config.json")
    return lambda: open_run(folder / "a")


@case
def spectra_of_holes(folder):
    run = a_run(folder)
    sparse(run.path / "spectra" / "step-00000000.safetensors", 100 * 2**20)
    listed(folder, "spectra/step-00000000.safetensors")
    return lambda: open_run(folder / "a").spectra(0)


@case
def spectra_of_another_kind(folder):
    run = a_run(folder)
    content = tensors_to_bytes({"0": np.ones((3, 3), np.float16)}, metadata={"keys": '["k"]'})
    (run.path / "spectra" / "step-00000000.safetensors").write_bytes(content)
    listed(folder, "spectra/step-00000000.safetensors")
    return lambda: open_run(folder / "a").spectra(0)


def database(folder, *statements, rows=()):
    path = a_run(folder).path / "records.sqlite"
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("BEGIN")
    for statement in statements:
        connection.execute(statement)
    for statement, values in rows:
        connection.executemany(statement, values)
    connection.commit()
    connection.close()
    return lambda: open_run(folder / "a").records()


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x"


@case
def records_as_an_endless_view(folder):
    from deepprobe.records.frame import TIDY

    columns = ", ".join(f'x AS "{c}"' for c in TIDY)
    return database(
        folder,
        "CREATE TABLE appends (id INTEGER PRIMARY KEY, step INTEGER, n_rows INTEGER NOT NULL, sha256 TEXT NOT NULL)",
        f"CREATE VIEW records AS {ENDLESS} AS append_id, {columns} FROM c",
    )


@case
def appends_as_an_endless_view(folder):
    return database(folder, f"CREATE VIEW appends AS {ENDLESS} AS id, x AS step, x AS n_rows, x AS sha256 FROM c")


@case
def records_with_a_trigger(folder):
    run = a_run(folder)
    connection = sqlite3.connect(run.path / "records.sqlite")
    connection.execute("CREATE TRIGGER t AFTER INSERT ON appends BEGIN DELETE FROM records; END")
    connection.commit()
    connection.close()
    return lambda: open_run(folder / "a").records()


@case
def rewinding_records_with_a_trigger(folder):
    records_with_a_trigger(folder)
    return lambda: open_run(folder / "a").rewind(0)


@case
def records_of_many_tables(folder):
    return database(folder, *(f"CREATE TABLE t{i} (x)" for i in range(20_000)))


@case
def records_with_a_text_larger_than_allowed(folder):
    run = a_run(folder)
    connection = sqlite3.connect(run.path / "records.sqlite")
    connection.execute("INSERT INTO appends VALUES (1, 1, 1, ?)", ("x" * 300_000_000,))
    connection.commit()
    connection.close()
    return lambda: open_run(folder / "a").records()


@case
def records_of_other_types(folder):
    from deepprobe.records.frame import TIDY

    run = a_run(folder)
    row = tuple("text" for _ in TIDY)
    digest = hashlib.sha256(repr(row).encode()).hexdigest()
    connection = sqlite3.connect(run.path / "records.sqlite")
    connection.execute("INSERT INTO appends VALUES (1, NULL, 1, ?)", (digest,))
    connection.execute(f"INSERT INTO records VALUES ({', '.join('?' * (len(TIDY) + 1))})", (1, *row))
    connection.commit()
    connection.close()
    return lambda: open_run(folder / "a").records()


@case
def a_journal_that_names_another_file(folder):
    """SQLite alone deletes the file that a journal names as its superior."""
    run = a_run(folder)
    (ROOT / "precious").write_text("thesis")
    name, magic = str(ROOT / "precious").encode(), bytes.fromhex("d9d505f920a163d7")
    path = run.path / "records.sqlite"
    head = (magic + struct.pack(">5L", 0, 1, path.stat().st_size // 4096, 512, 4096)).ljust(512, b"\0")
    end = struct.pack(">L", 2**30 // 4096 + 1) + name + struct.pack(">2L", len(name), sum(name)) + magic
    path.with_name("records.sqlite-journal").write_bytes(head + end)
    return lambda: open_run(folder / "a").records()


@case
def a_manifest_that_leads_elsewhere(folder):
    run = a_run(folder)
    Manifest(files={"../../etc/passwd": "0" * 64}).write(run.path)
    return lambda: open_run(folder / "a")


# ---- data


def idx_bomb(n):
    """Gzip data of n bytes of zeros after the header of 60,000 images."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as file:
        file.write(struct.pack(">HBB3I", 0, 8, 3, 60_000, 28, 28))
        for _ in range(n >> 20):
            file.write(bytes(2**20))
    return out.getvalue()


def mnist(folder, images):
    labels = struct.pack(">HBBI", 0, 8, 1, 60_000) + bytes(60_000)
    (folder / "train-labels-idx1-ubyte").write_bytes(labels)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(images)
    return lambda: load_dataset("mnist", data_dir=folder)


@case
def gzip_bomb_as_idx(folder):
    return mnist(folder, idx_bomb(2**30))


@case
def idx_of_giant_counts(folder):
    return mnist(folder, struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1))


@case
def idx_of_holes(folder):
    read = mnist(folder, b"")
    (folder / "train-images-idx3-ubyte.gz").unlink()
    sparse(folder / "train-images-idx3-ubyte", 2**40, struct.pack(">HBB3I", 0, 8, 3, 60_000, 28, 28))
    return read


def cifar_archive(folder, sizes):
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, size in sizes.items():
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, io.BytesIO(bytes(size)))
    return lambda: load_dataset("cifar10", data_dir=folder)


@case
def tar_bomb(folder):
    return cifar_archive(folder, {"cifar-10-batches-py/data_batch_1": 2**30})


@case
def tar_bomb_within_the_limits_of_members(folder):
    return cifar_archive(folder, {f"cifar-10-batches-py/data_batch_{i}": 60 * 2**20 for i in range(1, 6)})


@case
def tar_of_many_members(folder):
    return cifar_archive(folder, {f"m{i}": 0 for i in range(100_000)})


def cifar_pickle(folder, content):
    (folder / "cifar-10-batches-py").mkdir()
    (folder / "cifar-10-batches-py" / "test_batch").write_bytes(content)
    return lambda: load_dataset("cifar10", data_dir=folder, split="test")


@case
def cifar_pickle_of_many_instructions(folder):
    return cifar_pickle(folder, b"\x80\x02" + b"}" * (60 * 10**6) + b".")


@case
def cifar_pickle_that_doubles(folder):
    doubling = b"".join(b"]q%c(h%ch%ce" % (i, i - 1, i - 1) for i in range(1, 100))
    return cifar_pickle(folder, b"\x80\x02]q\x00" + doubling + b".")


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(folder, side, rows):
    body = zlib.compressobj(1)
    data = b"".join(body.compress(bytes(1 + side * 3)) for _ in range(rows)) + body.flush()
    header = chunk(b"IHDR", struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0))
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return lambda: read_picture(folder / "a.png")


@case
def png_of_a_giant_header(folder):
    return png(folder, 2**31 - 1, 0)


@case
def png_bomb(folder):
    return png(folder, 9_400, 9_400)


@case
def gif_bomb(folder):
    Image.new("L", (9_400, 9_400)).save(folder / "a.gif")
    return lambda: read_picture(folder / "a.gif")


@case
def tiff_of_a_giant_header(folder):
    Image.new("RGB", (8, 8)).save(folder / "a.tif")
    content = bytearray((folder / "a.tif").read_bytes())
    for tag in (256, 257):
        at = content.index(struct.pack("<HHI", tag, 4, 1)) if struct.pack("<HHI", tag, 4, 1) in content else -1
        if at < 0:
            at = content.index(struct.pack("<HHI", tag, 3, 1))
            content[at + 2 : at + 4] = struct.pack("<H", 4)
        content[at + 8 : at + 12] = struct.pack("<I", 2**31 - 1)
    (folder / "a.tif").write_bytes(content)
    return lambda: read_picture(folder / "a.tif")


@case
def jpeg_of_many_scans(folder):
    out = io.BytesIO()
    Image.new("L", (4_000, 4_000)).save(out, "JPEG", progressive=True)
    content = out.getvalue()
    last = content.rindex(b"\xff\xda")
    (folder / "a.jpg").write_bytes(content[:-2] + content[last:-2] * 3000 + content[-2:])
    return lambda: read_picture(folder / "a.jpg")


@case
def avif_of_another_size(folder):
    Image.new("RGB", (8_000, 8_000)).save(folder / "a.avif", "AVIF", speed=10)
    return lambda: read_mosaic(folder / "a.avif")


@case
def picture_of_holes(folder):
    sparse(folder / "a.avif", 63 * 2**20, b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1B")
    return lambda: read_picture(folder / "a.avif")


@case
def picture_of_more_holes(folder):
    sparse(folder / "a.png", 2**40)
    return lambda: read_picture(folder / "a.png")


# ---- settings


def toml(folder, content):
    (folder / "a.toml").write_bytes(content)
    return lambda: read_toml(folder / "a.toml", TrainOptions)


@case
def toml_nested(folder):
    return toml(folder, b"a=" + b"[" * 8_000)


@case
def toml_of_dots(folder):
    return toml(folder, b".".join([b"a"] * 8_000) + b"=1")


@case
def toml_of_holes(folder):
    sparse(folder / "a.toml", 2**40)
    return lambda: read_toml(folder / "a.toml", TrainOptions)


@case
def toml_of_a_giant_number(folder):
    return toml(folder, b"lr=" + b"9" * 15_000)


# ---- the harness


def growth():
    """Most memory that this process ever held, and what it holds now, in MiB."""
    now = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, now


def tried(read):
    """What came of a case: outcome, message, seconds of processor, growth in MiB."""
    _, before = growth()
    started = time.process_time()
    try:
        found = read()
        outcome, said = "read", repr(found)[:200]
    except DeepprobeError as error:
        outcome, said = "refused", str(error)
    except BaseException as error:  # what must not happen is to be told, not raised
        outcome, said = type(error).__name__, str(error)[:300]
    seconds = time.process_time() - started
    return {"outcome": outcome, "said": said, "seconds": seconds, "growth": growth()[0] - before}


def forked(function):
    """What a function returns in a fork of this process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "w") as file:
            file.write(json.dumps(function()))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        answer = file.read()
    status = os.waitpid(child, 0)[1]
    return json.loads(answer) if answer else {"outcome": f"died ({status})", "said": "", "seconds": 0, "growth": 0}


def main():
    """Try every case, each made and read in a fork of its own."""
    torch.set_num_threads(1)
    os.environ["DEEPPROBE_DATA"] = str(ROOT / "none")
    for name in sys.argv[2:] or CASES:
        folder = ROOT / name
        folder.mkdir()

        def make_then_try(folder=folder, name=name):
            read = CASES[name](folder)
            return forked(lambda: tried(read))  # a process of its own again: making took memory too

        print(json.dumps({"case": name} | forked(make_then_try)), flush=True)


if __name__ == "__main__":
    main()
