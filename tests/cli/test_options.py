"""Options of verbs: from words, from TOML files, and everything that must be refused."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepprobe.cli.job import _probe_settings
from deepprobe.cli.options import LARGEST_FILE, checked, parse, read_toml
from deepprobe.cli.subject import model_options
from deepprobe.cli.train import TrainOptions, options_from
from deepprobe.errors import ConfigError


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The error line of words that must be refused with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        parse(TrainOptions, words, verb="train")
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_words_become_options() -> None:
    words = [
        "a",
        "b",
        "--seeds",
        "0",
        "2",
        "--view",
        "samples",
        "--rows",
        "4",
        "--clip-norm",
        "1.5",
        "--out",
        "x/y",
        "--quiet",
        "--layers",
        "s.*",
        "t",
    ]
    options = parse(TrainOptions, words, verb="train")
    assert options.models == ("a", "b")
    assert (options.seeds, options.view, options.rows, options.clip_norm) == ((0, 2), ("samples",), 4, 1.5)
    assert (options.out, options.quiet, options.layers) == (Path("x/y"), True, ("s.*", "t"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--epochs", "0"], "--epochs 0: input should be greater than or equal to 1"),
        (["--lr", "nan"], "--lr nan: input should be a finite number"),
        (["--lr", "-1"], "--lr -1.0: input should be greater than 0"),
        (["--seeds", "-1"], "--seeds -1: input should be greater than or equal to 0"),
        (["--rows", "0"], "--rows 0: input should be 'all'; or: input should be greater than or equal to 1"),
        (["--momentum", "inf"], "--momentum inf: input should be a finite number"),
    ],
)
def test_values_out_of_range(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(["a", *words], capsys) == f"deepprobe train: {line}\n"


@pytest.mark.parametrize("words", [["--epochs", "many"], ["--view", "sample"], ["--epoch", "3"], ["--seeds", "0.5"]])
def test_malformed_words(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert words[0].rstrip("s") in refused(["a", *words], capsys)


def test_the_file_stands_below_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('models = ["a", "b"]\nlr = 0.5\nepochs = 3\nout = "there"\nprobe-every = "1ep"\n', encoding="utf-8")
    options = options_from(["--config", str(file), "--lr", "0.25"])
    assert (options.models, options.lr, options.epochs) == (("a", "b"), 0.25, 3)
    assert (options.out, options.probe_every, options.config) == (Path("there"), "1ep", file)
    assert options_from(["c", "--config", str(file)]).models == ("c",)


def test_the_command_line_wins_over_flags_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('models = ["a"]\ncompile = true\ndeterministic = false\n', encoding="utf-8")
    plain = options_from(["--config", str(file)])
    assert (plain.compile, plain.deterministic) == (True, False)
    options = options_from(["--config", str(file), "--no-compile", "--deterministic"])
    assert (options.compile, options.deterministic) == (False, True)


def test_what_to_probe_without_when(tmp_path: Path) -> None:
    given = ["--measure", "spectra", "weights", "updates", "--rows=4"]
    message = "--measure --rows: nothing is probed without --probe-every; add, say, --probe-every 1ep"
    with pytest.raises(ConfigError) as error:
        options_from(["a", *given])
    assert str(error.value) == message
    assert options_from(["a", *given, "--probe-every", "1ep"]).rows == 4
    file = tmp_path / "study.toml"
    file.write_text('models = ["a"]\nprobe-samples = 128\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^--probe-samples: nothing is probed without"):
        options_from(["--config", str(file)])
    with pytest.raises(ConfigError, match=r"^--probe-every 'banana' is no schedule; write it as '1ep'"):
        options_from(["a", "--probe-every", "banana"])


def test_no_model() -> None:
    with pytest.raises(ConfigError) as error:
        options_from(["--lr", "0.5"])
    assert str(error.value) == "no model was named; write deepprobe train MODEL …, and see deepprobe models"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "{file}: unknown key 'epoch'; did you mean 'epochs' or 'warmup_epochs'?"),
        ('lr = "0.1"', "{file}: lr = '0.1': input should be a valid number"),
        ("lr = nan", "{file}: lr = nan: input should be a finite number"),
        ("epochs = true", "{file}: epochs = True: input should be a valid integer"),
        ("epochs = 2.5", "{file}: epochs = 2.5: input should be a valid integer"),
        ("seeds = []", "{file}: seeds = []: tuple should have at least 1 item after validation, not 0"),
        ("[lr]\nx = 1", "{file}: lr = {{'x': 1}}: input should be a valid number"),
        ("lr = ", "{file} is not TOML: Invalid value (at end of document)"),
        ("\udcff", "{file} is not TOML: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
)
def test_malformed_files(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as error:
        read_toml(file, TrainOptions)
    assert str(error.value) == message.format(file=file)


def test_missing_and_huge_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file or directory$"):
        read_toml(tmp_path / "none.toml", TrainOptions)
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (LARGEST_FILE + 1))
    with pytest.raises(ConfigError, match=r"huge\.toml is larger than 16 KiB: this is no file of settings$"):
        read_toml(huge, TrainOptions)


NAMES = st.sampled_from([f.name for f in fields(TrainOptions)]) | st.text(string.ascii_lowercase + "_", max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)


def refusal(read: Callable[[], object]) -> str:
    """Message of our own error, or nothing where there was none; any other error passes through."""
    try:
        read()
    except ConfigError as error:
        return str(error)
    return ""


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_any_values_are_options_or_our_error(values: dict[str, Any]) -> None:
    message = refusal(lambda: checked(TrainOptions, values, origin="study.toml"))
    assert message == "" or message.startswith("study.toml: ")
    if set(values) - {f.name for f in fields(TrainOptions)}:
        assert message


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.text(string.printable, max_size=60).map(str.encode))
def test_any_file_is_options_or_our_error(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_bytes(content)
    message = refusal(lambda: read_toml(file, TrainOptions))
    assert message == "" or message.startswith(str(file))


def test_deeply_nested_file_is_our_error(tmp_path: Path) -> None:
    file = tmp_path / "deep.toml"
    file.write_text("seeds = " + "[" * 16_000, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"deep\.toml is not TOML"):
        read_toml(file, TrainOptions)


def test_model_options() -> None:
    words = ("shortcut=B", "gain=0.5", "norm=false", "widths=[16, 32]", "label=a=b", "empty=", "quoted='x'")
    assert model_options(words) == {
        "shortcut": "B", "gain": 0.5, "norm": False, "widths": [16, 32], "label": "a=b", "empty": "", "quoted": "x",
    }  # fmt: skip


@pytest.mark.parametrize("word", ["shortcut", "=B", "a b=3", "a.b=3"])
def test_malformed_model_option(word: str) -> None:
    with pytest.raises(ConfigError) as error:
        model_options((word,))
    assert str(error.value) == f"--model-options {word!r}: write name=value, for example shortcut=B"


def test_model_option_that_has_its_own_place() -> None:
    with pytest.raises(ConfigError) as error:
        model_options(("input_size=28",))
    assert str(error.value) == "--model-options 'input_size=28': input_size is set by --data and --input-size"


def test_training_options_are_those_of_the_trainer() -> None:
    from deepprobe.training import TrainConfig

    ours = {f.name: f.default for f in fields(TrainOptions)}
    theirs = {f.name: f.default for f in fields(TrainConfig)}  # type: ignore[arg-type]
    typed, checked_there = (get_type_hints(cls, include_extras=True) for cls in (TrainOptions, TrainConfig))
    for name in set(theirs) - {"seed", "on_nonfinite"}:
        assert ours[name] == theirs[name], name
        assert name in {"device", "milestones"} or repr(typed[name]) == repr(checked_there[name]), name


FILES = sorted((Path(__file__).parents[2] / "analyses" / "recipes").glob("*.toml"))
RECIPES = [path for path in FILES if "lottery" not in path.name]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_understood(path: Path) -> None:
    from deepprobe.records.step import parse_schedule
    from deepprobe.training import TrainConfig

    options = options_from(["--config", str(path)])
    given = {f.name: getattr(options, f.name) for f in fields(TrainConfig) if hasattr(options, f.name)}  # type: ignore[arg-type]
    assert TrainConfig(**given).batch_size == 128
    assert parse_schedule(options.probe_every or "")
    assert options.models == ("plainnet164", "resnet164", "resnext164")
    assert options.out == Path("runs") / path.stem


def test_a_replay_is_part_of_what_a_run_is() -> None:
    plain = TrainOptions(models=("resnet8",), probe_every="1ep")
    replayed = TrainOptions(models=("resnet8",), probe_every="1ep", replay=8)
    assert _probe_settings(replayed) == _probe_settings(plain) | {"replay": 8}
    assert "replay" not in _probe_settings(plain)
