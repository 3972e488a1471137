"""environment.yml, constraints.txt and pyproject.toml say the same, and the Makefile uses them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = {r.name: r for r in map(Requirement, PROJECT["dependencies"])}
GROUPS = {name: list(map(Requirement, group)) for name, group in PROJECT["optional-dependencies"].items()}
EXTRAS = {r.name.lower(): r for group in GROUPS.values() for r in group if r.name != "deepprobe"}


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {r.name: r for r in map(Requirement, (line for line in lines if line and not line.startswith("#")))}


def version_of(pin: Requirement) -> Version:
    (spec,) = pin.specifier
    assert spec.operator == "==", pin
    return Version(spec.version)


def test_environment_lists_what_pyproject_lists() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == "deepprobe"
    assert environment["channels"] == ["conda-forge"]
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-e .[dev]"]}
    entries = {r.name: r.specifier for r in map(Requirement, conda)}
    assert entries.pop("python") == PROJECT["requires-python"]
    assert str(entries.pop("pip")) == ""
    assert {CONDA_NAMES.get(n, n): s for n, s in entries.items()} == {n: r.specifier for n, r in CORE.items()}


def test_constraints_pin_every_requirement_within_its_bounds() -> None:
    pinned = pins()
    for name, requirement in (CORE | EXTRAS).items():
        assert requirement.specifier.contains(version_of(pinned[name.lower()])), requirement
    assert version_of(pinned["torch"]) >= Version("2.10"), "older ones break weights_only (CVE-2026-24747)"
    assert "+" not in str(pinned["torch"].specifier), "a local version would not be found elsewhere"


def test_every_requirement_has_a_lower_bound() -> None:
    for requirement in (CORE | EXTRAS).values():
        assert any(spec.operator == ">=" for spec in requirement.specifier), requirement


def test_the_checks_bring_every_extra() -> None:
    (own,) = [r for r in GROUPS["dev"] if r.name == "deepprobe"]
    trackers = {r.name for r in GROUPS["trackers"]}
    assert own.extras | {"dev", "tensorboard"} == set(GROUPS)
    assert {r.name for r in GROUPS["tensorboard"]} < trackers


def test_the_constraints_are_what_runs_here() -> None:
    """In an environment that the Makefile made; elsewhere (conda) the bounds alone must hold."""
    from importlib.metadata import version

    for name, requirement in CORE.items():
        assert requirement.specifier.contains(Version(version(name)), prereleases=True), requirement


def test_make_uses_the_constraints_and_two_goals() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "-c constraints.txt" in makefile
    goals = [line.partition(":")[0] for line in makefile.splitlines() if line.startswith(("demo:", "test:"))]
    assert goals == ["demo", "test"]


def test_ci_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, ".ci/run is not executable"
    assert script.read_text(encoding="utf-8").splitlines()[-1] == "make test"


def test_pre_commit_needs_no_network() -> None:
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in configuration["repos"]] == ["local"]
    assert {hook["language"] for hook in configuration["repos"][0]["hooks"]} == {"system"}
