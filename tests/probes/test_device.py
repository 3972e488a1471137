"""Rows that are accumulated on the device of the activations: nothing waits for it, and the numbers are those of QR.

The device is simulated by torch's ``meta``, whose tensors have no data: whatever needs their values – a number, a
truth, an array – raises there, and copies from one device to another are caught.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from deepprobe.errors import SpectrumError
from deepprobe.linalg.transfer import fetched
from deepprobe.measures.device_units import DeviceUnitCounter
from deepprobe.measures.units import UnitCounter
from deepprobe.probes import Probe, spectra
from deepprobe.probes.cell import cell_for
from deepprobe.probes.kept_cell import KeptCell
from deepprobe.probes.reading import Reading

GENERATOR = torch.Generator().manual_seed(0)
MIXING = torch.randn(3, 3, generator=GENERATOR)
IMAGES = torch.einsum("ij,njhw->nihw", MIXING, torch.randn(60, 3, 8, 8, generator=GENERATOR))
WAITS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "item"}


class Watch(TorchDispatchMode):
    """Counts operations; raises at those that wait for the device, and at copies to another one unless they may be."""

    def __init__(self, *, copies: int = 0, device: str = "meta") -> None:
        super().__init__()
        self._device = device
        self.operations: Counter[str] = Counter()
        self.copies = 0
        self._allowed = copies

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        self.operations[name] += 1
        if name == "index":
            assert all(i is None or i.dtype != torch.bool for i in args[1]), "a mask waits for its count"
        target = kwargs.get("device")
        if name == "_to_copy" and target is not None and torch.device(target) != args[0].device:
            self.copies += 1
            assert self.copies <= self._allowed, f"a copy from {args[0].device} to {target}"
            return torch.zeros(args[0].shape, dtype=args[0].dtype, device=target)
        if name == "copy_":
            assert args[0].device == args[1].device, f"a copy from {args[1].device} to {args[0].device}"
        on_device = any(isinstance(a, Tensor) and a.device.type == self._device for a in args)
        assert not (on_device and name in WAITS), f"{name} waits for the device"
        return func(*args, **kwargs)


@pytest.fixture
def no_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated device has none of its own."""
    for module in ("positions", "gram_cell", "rows_cell"):
        monkeypatch.setattr(f"deepprobe.probes.{module}.generator_for", lambda *args, **options: None)


class Net(nn.Module):
    """Layers that share shapes, an in-place one, and a head without positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        for block in self.blocks:
            x = self.relu(block(x))
        return self.head(x.mean((2, 3)))


READINGS = [
    {"rows": 4, "count_units": False},
    {"rows": 4},
    {"rows": "all"},
    {"rows": "all", "count_units": False},
    {"rows": 4, "shuffled_null": True, "count_units": False},
    {"rows": 2, "error_groups": 4},
    {"rows": "all", "error_groups": 4, "count_units": False},
    {"view": "pooled", "shuffled_null": True},
    {"view": "tokens", "rows": 3},
    {"view": "channels", "rows": 4, "tap": "input"},
]


@pytest.mark.parametrize("options", [*READINGS, {"view": "samples", "method": "auto"}], ids=str)
def test_nothing_waits_for_the_device_and_a_report_takes_one_transfer(
    options: dict[str, Any], no_generators: None
) -> None:
    model = Net().to("meta")
    with Probe(model, **{"method": "gram", **options}) as probe:
        for n in (16, 16, 7):
            images = torch.zeros(n, 3, 8, 8, device="meta")
            with Watch(), probe.recording():
                loss = model(images).sum()
            loss.backward()
        states = [t for _, cell in probe._cells.values() for part in cell.tensors() for t in part]
        with Watch(copies=1) as watch:
            state = probe.state()
    assert watch.copies == 1
    assert len(state.cells) == 6
    assert {t.device.type for t in states} == {"meta"}
    assert not any(t.requires_grad for t in states)


@pytest.mark.parametrize("options", [{"method": "qr"}, {"method": "gram", "certify": True}], ids=str)
def test_what_waits_is_found_out(options: dict[str, Any], no_generators: None) -> None:
    model = Net().to("meta")
    images, message = torch.zeros(16, 3, 8, 8, device="meta"), r"waits for the device|a copy"
    with Probe(model, **options) as probe, Watch(), pytest.raises(AssertionError, match=message), probe.recording():
        model(images)


@pytest.mark.parametrize("most", [2**22, 30 * 64])
def test_rows_that_were_kept_are_those_of_qr(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell of another device, here on the CPU: in-place layers overwrite nothing, long streams are handed over."""
    model = Net()
    exact = spectra(model, IMAGES.split(20), view="samples", progress=False)
    monkeypatch.setattr(
        "deepprobe.probes.probe.cell_for", lambda *args, **options: KeptCell(cell_for(*args, **options))
    )
    monkeypatch.setattr("deepprobe.probes.kept_cell.MOST_KEPT", most)
    with Probe(model, view="samples") as probe, torch.no_grad():
        for batch in IMAGES.split(20):
            with probe.recording():
                model(batch)
            probe.state()
        found = probe.spectra()
    assert list(found) == list(exact)
    for key, one in exact.items():
        np.testing.assert_allclose(found[key].singular_values, one.singular_values, rtol=1e-5)
        assert (found[key].units, found[key].n_rows) == (one.units, 60)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.int64]
)
def test_what_is_fetched_is_exact(dtype: torch.dtype) -> None:
    parts = [[torch.randn(3, 5).to(dtype), torch.ones((), dtype=torch.bool)], [], [torch.randn(4).to(dtype)[::2]]]
    found = fetched(parts)
    for part, copies in zip(parts, found, strict=True):
        for tensor, copy in zip(part, copies, strict=True):
            assert copy.dtype == tensor.dtype
            assert torch.equal(copy, tensor)


@pytest.mark.parametrize("options", [{"rows": 4}, {"rows": "all", "count_units": False}], ids=str)
def test_whitening_waits_once_a_layer(options: dict[str, Any]) -> None:
    model = Net()
    with Probe(model, method="whitened", **options) as probe:
        with probe.recording():
            model(IMAGES)
        for _ in range(2):
            with Watch(device="cpu") as watch, probe.recording():
                model(IMAGES[:16])
            assert watch.operations["mm"] >= 2 * 6
        assert set(probe.table()["status"]) <= {"finite", "singular-exact"}


def test_layers_of_one_shape_are_multiplied_together() -> None:
    """In one product a shape and forward pass, wherever recording ends, in matrices that stay where they are."""
    model = Net()
    with Probe(model, method="gram", rows=4) as probe:
        for _ in range(2):
            with Watch() as watch, probe.recording():
                model(IMAGES[:16])
                model(IMAGES[16:32])
            assert watch.operations["baddbmm_"] == 2 * 2  # the convolutions' rows, and the head's
        banks = [cell._live.rows._bank for key, (_, cell) in probe._cells.items() if key != "head"]
        assert len(set(map(id, banks))) == 1
        with probe.recording():
            model(IMAGES[:7])
        assert [cell._live.rows._bank for key, (_, cell) in probe._cells.items() if key != "head"] == banks
        assert {s.n_rows for s in probe.spectra().values()} == {64 * 4 + 7 * 4, 64 + 7}


@pytest.mark.parametrize("bad", [None, 0, 1], ids=["finite", "first batch bad", "second batch bad"])
@pytest.mark.parametrize("options", READINGS, ids=str)
@pytest.mark.parametrize("method", ["gram", "whitened"])
def test_numbers_are_those_of_qr(method: str, options: dict[str, Any], bad: int | None) -> None:
    batches = list(IMAGES.clone().split([25, 20, 15]))
    if bad is not None:
        batches[bad][3, 1] = float("nan")
        batches[bad][4, 0, 2, 2] = float("inf")
    found = {}
    for name in ("qr", method):
        model = nn.Sequential(nn.ReLU(), nn.Identity())
        options_of_layer = {**options, "tap": "input"} if options.get("tap") else options
        with Probe(model, layers=["0", "1"], method=name, seed=3, **options_of_layer) as probe:
            for batch in batches:
                with probe.recording():
                    model(batch)
            found[name] = probe.spectra()
    for exact, gram in zip(found["qr"].values(), found[method].values(), strict=True):
        assert (gram.status, gram.n_rows, gram.dtype) == (exact.status, exact.n_rows, exact.dtype)
        assert gram.units == exact.units
        np.testing.assert_allclose(gram.singular_values, exact.singular_values, rtol=1e-7)
        assert gram.centred is not None
        assert exact.centred is not None
        np.testing.assert_allclose(gram.centred.singular_values, exact.centred.singular_values, rtol=1e-7)
        for name in ("condition_number_shuffled",) + ("condition_number_se",) * (bad is None):
            assert getattr(gram, name) == pytest.approx(getattr(exact, name), rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_units_are_counted_as_on_the_cpu(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(40, 9, 12, generator=generator).relu()
    rows[:, 1] = 0
    rows[:, 2] = 2.5
    rows[:, 3] = 0
    rows[-1, 3, -1] = 1
    rows[:, 4] = 1
    rows[20:, 4] = 1.5  # constant in each batch, not over all
    rows[2, 7, 1] = float("nan")
    rows[35, 6, 1] = float("-inf")
    host, device = UnitCounter(9), DeviceUnitCounter(9)
    for batch in rows.to(dtype).split([3, 17, 0, 10, 10]):
        array = batch.float().numpy()
        assert bool(device.update(batch)) == (not host.note_nonfinite(array))
        if np.isfinite(array).all():
            host.update(array)
    assert DeviceUnitCounter.counter(9, device.tensors()).result(n_duplicate=3) == host.result(n_duplicate=3)
    assert DeviceUnitCounter.counter(9, []).result() == UnitCounter(9).result()


def test_a_mode_of_the_forward_pass_does_not_outlive_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    found = []
    for around in (torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad):
        with Probe(model, method="gram", rows=4) as probe:
            for _ in range(2):
                with probe.recording(), around():
                    model(IMAGES)
            with probe.recording():
                model(IMAGES)
            found.append(probe.spectra()["0"])
    assert [f.dtype for f in found] == ["float32", "bfloat16", "float32"]
    np.testing.assert_allclose(found[0].singular_values, found[2].singular_values, rtol=1e-12)


def test_rows_whose_sums_overflow_are_not_left_out_in_silence() -> None:
    rows = torch.full((40, 3), 1e308, dtype=torch.float64)
    rows[0] = 0
    message = "layer '0': sums of its values overflow; say method='qr'"
    with pytest.raises(SpectrumError, match=message):
        spectra(nn.Sequential(nn.Identity()), [rows], layers="0", method="gram")


def test_the_method_follows_the_device_and_the_dtype() -> None:
    with FakeTensorMode():
        single, double = (torch.empty(8, 4, 3, device="cuda", dtype=t) for t in (torch.float32, torch.float64))
        half = torch.empty(8, 4, 3, device="cuda", dtype=torch.float16)
    auto = Reading()
    assert [auto.settled(t, 4).method for t in (single, half, double, IMAGES)] == ["gram", "gram", "whitened", "qr"]
    assert Reading("samples").settled(single, 4).method == "qr"
    assert auto.settled(single, 4097).method == Reading(method="gram").settled(single, 4097).method == "qr"
    assert Reading(method="gram").settled(IMAGES, 4).method == "gram"
