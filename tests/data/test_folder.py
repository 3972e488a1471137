from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepprobe.data import load_dataset, load_image_folder
from deepprobe.errors import ConfigError, DataError, MissingDataError


def paint(folder: Path, classes: dict[str, int], size: tuple[int, int] = (6, 6), mode: str = "RGB") -> None:
    for c, (name, n) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            colour = (50 * c, 10 * i, 200) if mode == "RGB" else 50 * c + 10 * i
            Image.new(mode, size, colour).save(folder / name / f"{i}.png")


def test_split_by_seed(tmp_path: Path) -> None:
    paint(tmp_path / "pets", {"cat": 10, "dog": 5, "owl": 5})
    train = load_image_folder(tmp_path / "pets")
    test = load_dataset(f"folder:{tmp_path / 'pets'}", split="test")
    assert train.classes == ("cat", "dog", "owl")
    assert train.source == "pets (image folder)"
    assert np.bincount(train.labels).tolist() == [8, 4, 4]
    assert np.bincount(test.labels).tolist() == [2, 1, 1]
    assert (train.images[:, 0, 0, 0] == 50 * train.labels).all()
    painted = {
        (int(label), int(image[0, 0, 1]))
        for s in (train, test)
        for image, label in zip(s.images, s.labels, strict=True)
    }
    assert len(painted) == 20
    pixels = train.images / 255
    assert train.mean == pytest.approx(pixels.mean(axis=(0, 1, 2)))
    assert train.std[:2] == pytest.approx(pixels.std(axis=(0, 1, 2))[:2])
    assert train.std[2] == 1
    assert test.mean == train.mean
    assert load_image_folder(tmp_path / "pets", limit=6).labels.tolist() == train.labels[:6].tolist()
    assert len(set(train.labels[:6])) > 1
    assert load_image_folder(tmp_path / "pets", seed=1).labels.tolist() != train.labels.tolist()


@pytest.mark.parametrize("name", ["test", "val"])
def test_given_split(tmp_path: Path, name: str) -> None:
    paint(tmp_path / "train", {"a": 3, "b": 2}, mode="L")
    paint(tmp_path / name, {"b": 4}, mode="L")
    assert load_image_folder(tmp_path).images.shape == (5, 6, 6, 1)
    test = load_image_folder(tmp_path, split="test")
    assert test.labels.tolist() == [1] * 4
    assert test.tensors()[0].shape == (4, 1, 6, 6)


def test_sizes(tmp_path: Path) -> None:
    paint(tmp_path, {"a": 5, "b": 5}, size=(6, 6))
    Image.new("RGB", (12, 8), (9, 9, 9)).save(tmp_path / "a" / "wide.png")
    with pytest.raises(DataError, match=r"6×6 pixels, but|12×8 pixels, but") as caught:
        load_image_folder(tmp_path)
    assert str(caught.value).endswith("; give input_size to resize all")
    assert load_image_folder(tmp_path, input_size=4).images.shape[1:] == (4, 4, 3)


def test_central_square(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 2:6] = 100
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    assert (load_image_folder(tmp_path, input_size=2).images == 100).all()
    assert load_image_folder(tmp_path).images.shape == (8, 4, 8, 1)


def test_what_is_not_an_image_is_passed_over(tmp_path: Path) -> None:
    paint(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "a" / ".hidden.png").write_text("no picture")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "a" / "folder.png").mkdir()
    assert len(load_image_folder(tmp_path)) == 8


def test_missing(tmp_path: Path) -> None:
    known = ".avif .bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp"
    cases = [(tmp_path / "none", f"no image folder {tmp_path}/none; give a folder with one subfolder a class")]
    (tmp_path / "bare").mkdir()
    cases.append((tmp_path / "bare", f"{tmp_path}/bare: no class folders; expected CLASS/IMAGE files ({known})"))
    (tmp_path / "hollow" / "a").mkdir(parents=True)
    cases.append(
        (
            tmp_path / "hollow",
            f"{tmp_path}/hollow: no images for the training split; expected CLASS/IMAGE files ({known})",
        )
    )
    paint(tmp_path / "half", {"a": 5, "b": 0})
    cases.append((tmp_path / "half", f"{tmp_path}/half: class folder 'b' has no training images ({known})"))
    for folder, message in cases:
        with pytest.raises(MissingDataError) as caught:
            load_image_folder(folder)
        assert str(caught.value) == message


def test_strange_test_class_and_mixed_colours(tmp_path: Path) -> None:
    paint(tmp_path / "x" / "train", {"a": 2})
    paint(tmp_path / "x" / "test", {"b": 2})
    with pytest.raises(DataError) as caught:
        load_image_folder(tmp_path / "x")
    assert str(caught.value) == f"{tmp_path}/x/test: class folder 'b' is not in {tmp_path}/x/train"
    paint(tmp_path / "y" / "train", {"a": 2}, mode="L")
    paint(tmp_path / "y" / "test", {"a": 1}, mode="RGB")
    with pytest.raises(DataError) as caught:
        load_image_folder(tmp_path / "y", split="test")
    assert str(caught.value) == (
        f"{tmp_path}/y/test/a/0.png: a colour picture among grey ones; convert the folder to one kind"
    )


def test_grey_among_colour_becomes_colour(tmp_path: Path) -> None:
    paint(tmp_path / "train", {"a": 2})
    paint(tmp_path / "test", {"a": 1}, mode="L")
    assert load_image_folder(tmp_path, split="test").images.shape == (1, 6, 6, 3)


def test_wrong_options(tmp_path: Path) -> None:
    for options in ({"split": "val"}, {"limit": -1}, {"input_size": 0}, {"seed": -1}):
        (name,) = options
        with pytest.raises(ConfigError, match=f"^{name}="):
            load_image_folder(tmp_path, **options)


def test_too_much_memory(tmp_path: Path) -> None:
    paint(tmp_path, {"a": 5})
    with pytest.raises(ConfigError, match="give a smaller limit or input_size"):
        load_image_folder(tmp_path, input_size=60_000)
