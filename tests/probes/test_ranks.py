"""Batches spread over processes: rank 0 finds what one process finds over all of them, within 20 eps κ."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import toys
from torch import Tensor, nn

from deepprobe.distributed import Ranks
from deepprobe.errors import ShapeError
from deepprobe.probes import Probe, condition_numbers, spectra
from deepprobe.probes.state import merged
from deepprobe.records.spectrum import Spectrum

EPS = np.finfo(np.float64).eps
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.einsum(
    "ij,njhw->nihw", torch.randn(4, 4, generator=GENERATOR), torch.randn(90, 4, 6, 6, generator=GENERATOR) + 0.5
)
SPLITS = {"three": [7, 80], "five, the first and one more without batches": [0, 50, 60, 60]}


@dataclass(frozen=True)
class InTurn(Ranks):
    """Ranks of one process that run one after the other, rank 0 last; what is exchanged goes through pickle."""

    sent: list[bytes] = field(default_factory=list)
    flags: list[list[bool]] = field(default_factory=list)

    def agree(self, flags: Sequence[bool]) -> list[bool]:
        self.flags.append(list(flags))
        return [any(told) for told in zip(*self.flags, strict=True)] if self.is_main else [True] * len(flags)

    def gather(self, value: Any) -> list[Any]:
        if not self.is_main:
            self.sent.append(pickle.dumps(value))
            return []
        return [value, *(pickle.loads(told) for told in reversed(self.sent))]


def over_ranks(model: nn.Module, parts: Sequence[Any], **options: Any) -> dict[str, Spectrum]:
    first = InTurn(0, len(parts))
    for rank in range(len(parts) - 1, 0, -1):
        ranks = InTurn(rank, len(parts), first.sent, first.flags)
        assert alone(model, parts[rank], ranks=ranks, **options) == {}
    return alone(model, parts[0], ranks=first, **options)


def alone(model: nn.Module, batches: Sequence[Tensor], **options: Any) -> dict[str, Spectrum]:
    layers = "layer" if isinstance(model, Identity) else None
    return spectra(model, batches, layers=layers, progress=False, **options)


class Identity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def batches(tensor: Tensor) -> list[Tensor]:
    return list(tensor.split(11)) if len(tensor) else []


def assert_alike(found: Spectrum, exact: Spectrum, *, tolerance: float = 20 * EPS) -> None:
    assert (found.status, found.n_rows, found.units) == (exact.status, exact.n_rows, exact.units)
    assert (found.reasons, found.dtype, found.certificate) == (exact.reasons, exact.dtype, exact.certificate)
    assert found.numerical_rank == exact.numerical_rank
    largest = exact.singular_values[0] if len(exact.singular_values) else 0.0
    np.testing.assert_allclose(found.singular_values, exact.singular_values, rtol=0, atol=tolerance * largest)
    assert found.condition_number_live == pytest.approx(exact.condition_number_live, rel=1e-9, nan_ok=True)
    assert (found.floor, found.condition_number_max) == pytest.approx(
        (exact.floor, exact.condition_number_max), nan_ok=True
    )
    if exact.centred is not None:
        assert found.centred is not None
        assert_alike(found.centred, exact.centred, tolerance=tolerance)


@pytest.mark.parametrize("cuts", SPLITS.values(), ids=SPLITS.keys())
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "gram"},
        {"view": "samples"},
        {"view": "pooled", "certify": True},
        {"view": "tokens"},
        {"error_groups": 7},
        {"error_groups": 7, "method": "gram"},
        {"view": "hosvd2"},
        {"replay": 9},
    ],
    ids=str,
)
def test_as_one_process(options: dict[str, Any], cuts: list[int]) -> None:
    images = IMAGES.clone()
    images[:, 2] = images[:, 2].relu()
    images[:50, 3] = 1.0  # constant on the first ranks
    parts = [batches(part) for part in images.tensor_split(cuts)]
    model = toys.small_residual_net() if "replay" in options else Identity()
    images = images[:, :3] if "replay" in options else images
    parts = [batches(part) for part in images.tensor_split(cuts)]
    exact = alone(model, [b for part in parts for b in part], **options)
    found = over_ranks(model, parts, **options)
    assert list(found) == list(exact)
    for key, one in exact.items():
        assert_alike(found[key], one, tolerance=1e-7 if options.get("method") == "gram" else 20 * EPS)
        assert found[key].condition_number_se == pytest.approx(one.condition_number_se, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("method", ["qr", "gram"])
def test_units_are_those_of_all_ranks(method: str) -> None:
    rows = torch.randn(60, 8, generator=GENERATOR)
    rows[:, 0] = 0  # dead
    rows[:30, 1] = 0  # dead on one rank
    rows[:, 2] = 3.0  # constant
    rows[:30, 3], rows[30:, 3] = 1.0, 2.0  # constant on each rank
    rows[:, 4] = 0
    rows[:25, 4] = rows[30:54, 4] = 1.5  # rare on either, and over both
    rows[:, 5] = 0
    rows[:28, 5] = rows[30:59, 5] = 1.0  # rare on either, not over both
    rows[30, 6], rows[59, 7] = float("nan"), float("inf")
    parts = [[rows[:30]], [rows[30:45], rows[45:]]]
    exact = alone(Identity(), [b for p in parts for b in p], method=method)["layer"]
    found = over_ranks(Identity(), parts, method=method)["layer"]
    assert found.units == exact.units
    assert (found.units.n_nonfinite, found.units.first_nonfinite, found.n_rows) == (2, 6, 30)
    finite = torch.nan_to_num(rows, nan=0.3, posinf=0.4)
    found = over_ranks(Identity(), [[finite[:30]], [finite[30:]]], method=method)["layer"]
    assert_alike(found, alone(Identity(), [finite], method=method)["layer"], tolerance=1e-7)
    assert (found.units.n_dead, found.units.n_constant, found.units.n_rare) == (1, 2, 2)


def test_duplicates_are_those_of_all_ranks() -> None:
    rows = torch.randn(40, 5, generator=GENERATOR)
    rows[:, 1] = rows[:, 0]
    rows[:20, 3] = rows[:20, 2]
    assert over_ranks(Identity(), [[rows[:20]], [rows[20:]]])["layer"].units.n_duplicate == 1


def test_exact_ranks_of_rows_that_cancel() -> None:
    """Sketches of one seed, added as they are, would be one of the sum of the rows: of nothing here."""
    rows = torch.randn(30, 4, generator=GENERATOR).double()
    rows[:, 3] = rows[:, 0] * (1 + 2.0**-52)
    found = over_ranks(Identity(), [[rows], [-rows], [rows]], certify=True)["layer"]
    assert found.certificate == alone(Identity(), [rows], certify=True)["layer"].certificate == 4


def test_sketches_are_merged_with_rows_that_were_kept() -> None:
    """One process sketches from the 280th row on, two of these ranks do not at all."""
    rows = torch.randn(320, 30_000, generator=GENERATOR)
    rows[:, 7] = 0
    rows[:, 9] = 2.0
    parts = [list(part.split(150)) for part in rows.tensor_split([10, 310])]
    exact = alone(Identity(), [b for part in parts for b in part], view="samples")["layer"]
    found = over_ranks(Identity(), parts, view="samples")["layer"]
    assert found.sketched
    assert_alike(found, exact, tolerance=1e-12)


def test_drawn_rows_and_permutations_differ_from_rank_to_rank() -> None:
    options: dict[str, Any] = {"rows": 3, "shuffled_null": True, "seed": 5}
    found = over_ranks(Identity(), [[IMAGES], [IMAGES]], **options)["layer"]
    one = alone(Identity(), [IMAGES], **options)["layer"]
    assert found.n_rows == 2 * one.n_rows == 540
    assert np.abs(found.singular_values / (np.sqrt(2) * one.singular_values) - 1).min() > 1e-6
    assert found.condition_number == pytest.approx(alone(Identity(), [IMAGES])["layer"].condition_number, rel=0.2)
    assert 1 < found.condition_number_shuffled < 2


def test_nothing_anywhere_is_said_on_every_rank() -> None:
    ranks = InTurn(0, 2, flags=[[False, False]])
    with pytest.raises(ShapeError, match="batches holds no samples"):
        alone(Identity(), [], ranks=ranks)


def test_other_units_in_another_process_are_an_error() -> None:
    with pytest.raises(ShapeError, match="layer 'layer' had 4 units and now has 3 in the view 'channels'"):
        over_ranks(Identity(), [[IMAGES], [IMAGES[:, :3]]])
    with pytest.raises(ShapeError, match="layer 'layer' was read differently in two processes"):
        merged([_state(IMAGES, method="qr"), _state(IMAGES, method="gram")])


def _state(images: Tensor, **options: Any) -> Any:
    with Probe(model := Identity(), layers="layer", **options) as probe, probe.recording():
        model(images)
    return probe.state()


@pytest.mark.parametrize("options", [{"method": "gram"}, {"method": "qr"}, {"error_groups": 4, "shuffled_null": True}])
def test_a_probe_goes_on_after_its_state_was_taken(options: dict[str, Any]) -> None:
    with Probe(model := Identity(), layers="layer", rows=3, **options) as probe:
        with probe.recording():
            model(IMAGES)
        first = probe.spectra()["layer"]
        state = probe.state()
        merged([state, pickle.loads(pickle.dumps(state))])
        np.testing.assert_array_equal(probe.spectra()["layer"].singular_values, first.singular_values)
        with probe.recording():
            model(IMAGES)
        assert probe.table()["n_rows"].tolist() == [540]


WORKER = """
import sys, torch
from deepprobe.distributed import current_ranks
from deepprobe.probes import Probe, condition_numbers
store = torch.distributed.FileStore(sys.argv[1], 2)
torch.distributed.init_process_group("gloo", store=store, rank=int(sys.argv[2]), world_size=2)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(216, 4))
images = torch.randn(50, 3, 8, 8)
ranks = current_ranks()
mine = images[:29] if ranks.is_main else images[29:]
table = condition_numbers(model, mine.split(9), tap="input", error_groups=5, progress=False, ranks=ranks)
with Probe(model, tap="input", compilable=False) as probe:
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    with probe.recording():
        wrapped(mine)
    flight = probe.table(ranks=ranks)
for name, found in (("pass", table), ("flight", flight)):
    found.to_pickle(f"{sys.argv[3]}/{name}{ranks.rank}.pkl")
del wrapped
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_two_processes(tmp_path: Path) -> None:
    """Over gloo, by a probe pass and in flight."""
    commands = [[sys.executable, "-c", WORKER, str(tmp_path / "store"), str(rank), str(tmp_path)] for rank in (0, 1)]
    jobs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    said = [job.communicate(timeout=120)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4))
    images = torch.randn(50, 3, 8, 8)
    exact = condition_numbers(model, images.split(9), tap="input", error_groups=5, progress=False)
    for name in ("pass", "flight"):
        found, nothing = (pd.read_pickle(tmp_path / f"{name}{rank}.pkl") for rank in (0, 1))
        assert len(nothing) == 0
        columns = [c for c in exact.columns if name == "pass" or not c.endswith("_se")]
        pd.testing.assert_frame_equal(found[columns], exact[columns], rtol=1e-9)
