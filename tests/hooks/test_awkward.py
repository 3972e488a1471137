"""The awkward models: right tensors, outputs bit-equal with and without the probe, no hook left."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
import toys
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from deepprobe.errors import ShapeError
from deepprobe.hooks.attach import attached
from deepprobe.hooks.capture import capture
from deepprobe.hooks.select import select_layers
from deepprobe.probes import Probe, spectra

ROWS = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SEQUENCES = torch.randn(8, 7, 5, generator=torch.Generator().manual_seed(0))

CASES: dict[str, tuple[type[nn.Module], Tensor, list[str]]] = {
    "in-place activation": (toys.InPlace, IMAGES, ["conv", "head"]),
    "called twice": (toys.CalledTwice, ROWS, ["lin", "lin#2"]),
    "tuple output": (toys.TupleOut, SEQUENCES, ["lstm[0]", "lstm[1][0]", "lstm[1][1]", "head"]),
    "dict output": (toys.DictOut, ROWS, ["layer.lin"]),
    "dataclass output": (toys.DataclassOut, ROWS, ["layer.lin"]),
    "activation checkpointing": (toys.Checkpointed, ROWS, ["block.0", "head"]),
    "shared parameters": (toys.Shared, ROWS, ["a", "b"]),
    "Sequential in ModuleList": (toys.ListOfSequentials, ROWS, ["stages.0.0", "stages.1.0", "stages.2.0"]),
}


def n_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("case", CASES)
def test_probe_leaves_no_trace(case: str) -> None:
    kind, batch, calls = CASES[case]
    torch.manual_seed(0)
    model = kind()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    plain = model(batch)
    found = spectra(model, [batch, batch[:3], batch[:0]], view="tokens" if batch.ndim == 3 else "channels")
    assert list(found) == calls
    assert n_hooks(model) == 0
    assert all(m.training for m in model.modules())
    assert torch.equal(model(batch), plain)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    with capture(model) as tensors:
        assert torch.equal(model(batch), plain)
    assert set(tensors) == set(calls)
    assert n_hooks(model) == 0


def test_in_place_activation_does_not_overwrite_what_was_read() -> None:
    model = toys.InPlace()
    with capture(model, layers=["conv", "act"]) as tensors:
        model(IMAGES)
    exact = model.conv(IMAGES)
    assert torch.equal(tensors["conv"], exact)
    assert (tensors["conv"] < 0).any()
    assert torch.equal(tensors["act"], exact.relu())
    rows = exact.detach().double().permute(0, 2, 3, 1).reshape(-1, 4).numpy()
    found = spectra(model, [IMAGES], layers="conv")["conv"]
    np.testing.assert_allclose(found.singular_values, np.linalg.svd(rows, compute_uv=False), rtol=1e-5)


def test_calls_are_numbered_in_order() -> None:
    model = toys.CalledTwice()
    with capture(model, layers="lin") as tensors:
        model(ROWS)
    first = model.lin(ROWS)
    assert torch.equal(tensors["lin"], first)
    assert torch.equal(tensors["lin#2"], model.lin(torch.tanh(first)))


def test_containers_are_read_by_place() -> None:
    model = toys.DictOut()
    with capture(model, layers="layer") as tensors:
        model(ROWS)
    assert set(tensors) == {"layer['plain']", "layer['squared']"}
    assert torch.equal(tensors["layer['squared']"], tensors["layer['plain']"] ** 2)
    other = toys.DataclassOut()
    with capture(other, layers="layer") as tensors:
        other(ROWS)
    assert set(tensors) == {"layer.hidden"}  # the integer field is no representation


def test_ddp_and_data_parallel_are_looked_through() -> None:
    model = toys.CalledTwice()
    assert list(spectra(nn.DataParallel(model), [ROWS])) == ["lin", "lin#2"]
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        assert list(spectra(wrapped, [ROWS])) == ["lin", "lin#2"]
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler's own reading
def test_compiled_models() -> None:
    """A probe pass runs the eager twin; an in-flight probe is attached before compiling."""
    model = toys.ListOfSequentials()
    compiled = torch.compile(model, backend="eager")
    compiled(ROWS)
    assert list(spectra(compiled, [ROWS])) == ["stages.0.0", "stages.1.0", "stages.2.0"]
    torch._dynamo.reset()
    other = toys.ListOfSequentials()
    with Probe(other) as probe:
        compiled = torch.compile(other, backend="eager")
        with probe.recording():
            compiled(ROWS)
            compiled(ROWS)
        compiled(ROWS)
    assert {s.n_rows for s in probe.spectra().values()} == {32}
    torch._dynamo.reset()


def test_what_checkpointing_computes_again_is_not_counted() -> None:
    model = toys.Checkpointed()
    with Probe(model) as probe, probe.recording():
        model(ROWS.clone().requires_grad_()).sum().backward()
    assert {key: s.n_rows for key, s in probe.spectra().items()} == {"block.0": 16, "head": 16}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = toys.ListOfSequentials().to(dtype)
    found = spectra(model, [ROWS.to(dtype)])["stages.0.0"]
    with capture(model, layers="stages.0.0") as tensors:
        model(ROWS.to(dtype))
    exact = np.linalg.svd(tensors["stages.0.0"].double().numpy(), compute_uv=False)
    np.testing.assert_allclose(found.singular_values, exact, rtol=1e-12)
    assert found.dtype == str(dtype).removeprefix("torch.")


def test_dict_and_pair_batches() -> None:
    model = toys.DictIn()
    exact = spectra(model, [ROWS])["lin"].singular_values
    for batch in ({"values": ROWS, "labels": torch.zeros(16)}, (ROWS, torch.zeros(16)), [ROWS, torch.zeros(16)]):
        np.testing.assert_array_equal(spectra(model, [batch])["lin"].singular_values, exact)
    np.testing.assert_array_equal(spectra(model, ROWS)["lin"].singular_values, exact)
    np.testing.assert_array_equal(
        spectra(model, (ROWS, torch.zeros(16, dtype=torch.long)))["lin"].singular_values, exact
    )


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_hooks_are_gone_after_an_error(error: type[BaseException]) -> None:
    model = toys.CalledTwice()

    def fail(module: nn.Module, args: object) -> None:
        raise error("stop")

    handle = model.act.register_forward_pre_hook(fail)
    with pytest.raises(error):
        spectra(model, [ROWS])
    handle.remove()
    assert n_hooks(model) == 0
    assert all(m.training for m in model.modules())


def test_an_attached_probe_spoils_neither_copying_nor_saving() -> None:
    model = toys.CalledTwice()
    with Probe(model) as probe:
        twin = copy.deepcopy(model)
        buffer = io.BytesIO()
        torch.save(model, buffer)
        with probe.recording():
            twin(ROWS)
        assert probe.spectra() == {}
        with probe.recording():
            model(ROWS)
    assert len(probe.spectra()) == 2
    buffer.seek(0)
    with torch.serialization.safe_globals([]):
        restored = torch.load(buffer, weights_only=False)  # a whole module that this test saved itself
    assert torch.equal(restored(ROWS), model(ROWS))


def test_modes_of_single_modules_and_random_states_are_restored() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.BatchNorm1d(6))
    model[2].eval()
    torch.manual_seed(7)
    state, running = torch.get_rng_state(), model[2].running_mean.clone()
    spectra(model, [ROWS], rows=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model] == [True, True, False]
    assert torch.equal(model[2].running_mean, running)


def test_depth_counts_weighted_layers_and_not_shortcuts() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.shortcut = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)) + self.shortcut(x)

    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(Block(), Block()))
    depths = {key: s.call.depth for key, s in spectra(model, [ROWS], tap="input").items() if s.call}
    assert depths["0"] == 1
    assert [depths[f"1.{i}.{name}"] for i in (0, 1) for name in "ab"] == [2, 3, 4, 5]
    assert {k: s.call.depth for k, s in spectra(model, [ROWS], tap="block").items() if s.call} == {"1.0": 3, "1.1": 5}


def test_idle_hooks_record_nothing() -> None:
    seen: list[str] = []
    model = toys.CalledTwice()
    layers = select_layers(model)
    with attached(model, layers, tap="output", on_tensor=lambda call, _: seen.append(call.key)) as state:
        state.active = False
        model(ROWS)
        assert seen == []
        state.active = True
        model(ROWS)
    assert seen == ["lin", "lin#2"]
    model(ROWS)
    assert len(seen) == 2


class Recursive(nn.Module):
    """Applies its layer three times by calling itself."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(6, 6)

    def forward(self, x: Tensor, times: int = 2) -> Tensor:
        return self.lin(self(x, times - 1)) if times else self.lin(x)


def test_a_model_that_calls_itself() -> None:
    found = spectra(Recursive(), [ROWS, ROWS])
    assert list(found) == ["lin", "lin#2", "lin#3"]
    assert {s.n_rows for s in found.values()} == {2 * len(ROWS)}


class Interrupting(nn.Module):
    """Ctrl-C in the middle of a forward pass, once."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.armed = nn.Linear(6, 6), True

    def forward(self, x: Tensor) -> Tensor:
        x = self.lin(x)
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt
        return x


def test_calls_are_numbered_from_one_after_an_interrupt() -> None:
    model = Interrupting()
    with Probe(model) as probe:
        with pytest.raises(KeyboardInterrupt), probe.recording():
            model(ROWS)
        probe.reset()
        with probe.recording():
            model(ROWS)
    assert list(probe.spectra()) == ["lin"]


def test_packed_sequences_reach_the_model_as_they_are() -> None:
    lstm = nn.Sequential(nn.LSTM(5, 4))
    packed = pack_sequence([SEQUENCES[0], SEQUENCES[1, :4]])
    shorter = spectra(lstm, [(packed, torch.zeros(2))], replay=2)
    assert list(shorter) == ["0[0][0]", "0[1][0]", "0[1][1]"]
    assert shorter["0[0][0]"].n_rows == 11


@pytest.mark.parametrize("whole", [True, False])
def test_modules_compiled_inside_are_read(whole: bool) -> None:
    inner = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).eval()
    model = nn.Sequential(inner)
    if whole:
        model.compile(backend="eager")
    else:
        inner.compile(backend="eager")
    with torch.no_grad():
        model(ROWS)
    assert list(spectra(model, [ROWS])) == ["0.0", "0.2"]


def test_eight_bit_floats() -> None:
    found = spectra(nn.Identity(), [ROWS.to(torch.float8_e4m3fn)], layers="*")
    exact = np.linalg.svd(ROWS.to(torch.float8_e4m3fn).double().numpy(), compute_uv=False)
    assert found[""].dtype == "float8_e4m3fn"
    assert found[""].singular_values == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("legacy", [True, False])
def test_reduced_products_are_off_and_come_back(legacy: bool) -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        if legacy:
            matmul.allow_tf32 = True
        else:
            matmul.fp32_precision = "tf32"
        seen: list[str] = []
        model = nn.Sequential(nn.Linear(6, 6))
        handle = model[0].register_forward_hook(lambda *_: seen.append(matmul.fp32_precision))
        spectra(model, [ROWS])
        handle.remove()
        assert (seen, matmul.fp32_precision) == (["ieee"], "tf32")
    finally:
        matmul.fp32_precision = before


class Unused(nn.Module):
    """Holds a layer that its forward pass leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.spare = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x)


def test_chosen_layers_that_are_never_called() -> None:
    with pytest.raises(ShapeError) as caught:
        spectra(Unused(), [ROWS], layers="spare")
    assert str(caught.value) == (
        "none of the 1 chosen layers saw a floating-point tensor at tap='output':"
        " the forward pass does not call them, or gives them integers"
    )
