"""The two calls, end to end on small models, against matrices formed in full."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import toys
from torch import Tensor, nn

from deepprobe.errors import ConfigError, ShapeError, SpectrumError, UnknownNameError
from deepprobe.linalg.matricize import VIEWS
from deepprobe.probes import condition_numbers, spectra

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(40, 3, 6, 6, generator=GENERATOR)


class Identity(nn.Module):
    """Passes rows through one named layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def whole(view: str, tensor: Tensor) -> np.ndarray:
    t = tensor.double()
    n = len(t)
    matrices = {
        "samples": lambda: t.reshape(n, -1),
        "channels": lambda: t.permute(0, 2, 3, 1).reshape(-1, t.shape[1]),
        "pooled": lambda: t.mean((2, 3)),
        "tokens": lambda: t.reshape(-1, t.shape[-1]),
    }
    return matrices[view]().numpy()


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("view", ["samples", "channels", "pooled", "tokens"])
def test_against_the_whole_matrix(view: str, memory: torch.memory_format) -> None:
    batches = [part.contiguous(memory_format=memory) for part in IMAGES.split([7, 1, 20, 12])]
    found = spectra(Identity(), [*batches, IMAGES[:0]], layers="layer", view=view)["layer"]
    matrix = whole(view, IMAGES)
    n, d = matrix.shape
    tolerance = 1e-6 if view == "pooled" else 1e-11  # means are formed in float32
    exact = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(found.singular_values, exact, rtol=tolerance)
    assert (found.n_rows, found.n_features) == (n, d)
    assert found.centred is not None
    centred = np.linalg.svd(matrix - matrix.mean(axis=0), compute_uv=False)[: min(n - 1, d)]
    np.testing.assert_allclose(found.centred.singular_values, centred, rtol=tolerance)
    assert found.status == "finite"
    assert found.condition_number == pytest.approx(exact[0] / exact[-1], rel=tolerance)


@pytest.mark.parametrize("mode", [1, 2, 3])
def test_hosvd_is_the_median_sample(mode: int) -> None:
    found = spectra(Identity(), IMAGES.split(15), layers="layer", view=f"hosvd{mode}")["layer"]
    unfolded = [sample.movedim(mode - 1, 0).reshape(sample.shape[mode - 1], -1).double().numpy() for sample in IMAGES]
    kappas = sorted(np.linalg.cond(m) for m in unfolded)
    assert found.condition_number == pytest.approx(kappas[19], rel=1e-11)
    assert found.condition_number_max == pytest.approx(kappas[-1], rel=1e-11)
    assert found.centred is not None
    centred = sorted(np.linalg.cond(m - m.mean(axis=1, keepdims=True)) for m in unfolded)
    assert found.centred.condition_number == pytest.approx(centred[19], rel=1e-11)


@pytest.mark.parametrize("view", VIEWS)
def test_two_axes_are_rows_and_units_in_every_view(view: str) -> None:
    rows = torch.randn(50, 4, generator=GENERATOR)
    found = spectra(Identity(), [rows], layers="layer", view=view)["layer"]
    np.testing.assert_allclose(
        found.singular_values, np.linalg.svd(rows.double().numpy(), compute_uv=False), rtol=1e-12
    )


def test_random_positions_are_unbiased_and_seeded() -> None:
    images = torch.randn(600, 4, 8, 8, generator=GENERATOR) * torch.tensor([1.0, 2, 3, 10]).reshape(4, 1, 1)
    everything = spectra(Identity(), images.split(100), layers="layer")["layer"]
    few = [spectra(Identity(), images.split(100), layers="layer", rows=4, seed=s)["layer"] for s in (0, 0, 1)]
    assert {f.n_rows for f in few} == {2400}
    np.testing.assert_array_equal(few[0].singular_values, few[1].singular_values)
    assert few[0].condition_number != few[2].condition_number
    for f in few:
        assert f.condition_number == pytest.approx(everything.condition_number, rel=0.1)


def test_units_are_counted_over_all_rows_even_when_few_are_used() -> None:
    images = torch.zeros(64, 2, 32, 32)
    images[:, 0] = torch.randn(64, 32, 32, generator=GENERATOR)
    images[5, 1, 3, 4] = 1.0
    found = spectra(Identity(), [images], layers="layer", rows=1)["layer"]
    assert (found.units.n_dead, found.units.n_rare) == (0, 1)
    assert found.reasons == ("1 dead unit in the rows used (0 in all)",)


def test_table_has_one_row_a_call_in_depth_order() -> None:
    table = condition_numbers(toys.small_residual_net(), [IMAGES], tap="input")
    assert table["layer"].tolist() == ["stem", "blocks.0.conv", "blocks.1.conv", "head"]
    assert table["depth"].tolist() == [1, 2, 3, 4]
    assert set(table["tap"]) == {"input"}
    blocks = condition_numbers(toys.small_residual_net(), [IMAGES], tap="block", view="samples")
    assert blocks["layer"].tolist() == ["blocks.0", "blocks.1"]


def test_nonfinite_batches_stay_out() -> None:
    clean, bad = torch.randn(30, 3, generator=GENERATOR), torch.randn(30, 3, generator=GENERATOR)
    bad[4, 2] = float("nan")
    bad[5, 1] = float("inf")
    found = spectra(Identity(), [clean, bad, clean], layers="layer")["layer"]
    assert found.status == "nonfinite"
    assert np.isnan(found.condition_number)
    assert (found.units.n_nonfinite, found.units.first_nonfinite, found.n_rows) == (2, 1, 60)
    exact = np.linalg.svd(np.concatenate([clean, clean]).astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(found.singular_values, exact, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("rows", "status"),
    [
        (torch.zeros(5, 3), "zero"),
        (torch.ones(1, 1), "finite"),
        (torch.full((4, 3), float("nan")), "nonfinite"),
        (torch.full((4, 3), float("-inf")), "nonfinite"),
        (torch.eye(3), "finite"),
        (torch.ones(4, 3), "singular-exact"),
        (torch.ones(1, 3), "singular-exact"),
    ],
    ids=["zero", "1x1", "nan", "inf", "eye", "duplicates", "one row"],
)
def test_documented_answers(rows: Tensor, status: str, dtype: torch.dtype) -> None:
    """The one answer for each special input, in every precision."""
    found = spectra(Identity(), [rows.to(dtype)], layers="layer")["layer"]
    assert found.status == status
    expected = {"finite": 1.0, "nonfinite": np.nan}.get(status, np.inf)
    assert found.condition_number == pytest.approx(expected, nan_ok=True)
    row = found.row()
    if status == "nonfinite":
        assert np.isnan(row["effective_rank"])
        assert row["numerical_rank"] == 0
    if status == "zero":
        assert (row["numerical_rank"], row["sigma_max"], row["n_dead"]) == (0, 0.0, 3)


def test_large_half_values_do_not_overflow() -> None:
    rows = torch.full((50, 2), 60_000.0, dtype=torch.float16)
    rows[:, 1] = torch.arange(50, dtype=torch.float16)
    found = spectra(Identity(), [rows], layers="layer")["layer"]
    exact = np.linalg.svd(rows.double().numpy(), compute_uv=False)
    assert found.units.n_nonfinite == 0
    np.testing.assert_allclose(found.singular_values, exact, rtol=1e-12)


def test_certificate_settles_a_layer() -> None:
    rows = torch.randn(200, 4, generator=GENERATOR)
    rows[:, 3] = rows[:, 0] - 0.5 * rows[:, 1]
    exact_sum = rows.clone()
    exact_sum[:, :2] = torch.randint(-8, 8, (200, 2), generator=GENERATOR).float()
    exact_sum[:, 3] = exact_sum[:, 0] - 0.5 * exact_sum[:, 1]
    assert spectra(Identity(), [exact_sum], layers="layer")["layer"].status == "singular-at-precision"
    proven = spectra(Identity(), [exact_sum], layers="layer", certify=True)["layer"]
    assert (proven.status, proven.certificate) == ("singular-exact", 3)
    rounded = spectra(Identity(), [rows], layers="layer", certify=True)["layer"]
    assert (rounded.status, rounded.certificate) == ("singular-at-precision", 4)


def test_gram_agrees_where_it_can_see() -> None:
    exact = spectra(Identity(), [IMAGES], layers="layer")["layer"]
    gram = spectra(Identity(), [IMAGES], layers="layer", method="gram")["layer"]
    np.testing.assert_allclose(gram.singular_values, exact.singular_values, rtol=1e-10)
    assert gram.delta > exact.delta


def test_replay_measures_a_floor_that_holds() -> None:
    """Weyl: every stored singular value lies within the floor of that of the float64 pass, on the same samples."""
    torch.manual_seed(0)
    model = toys.small_residual_net()
    found = spectra(model, [IMAGES], tap="block", replay=40)
    twin = spectra(toys.small_residual_net().double(), [IMAGES.double()], tap="block")
    exact_model = toys.small_residual_net().double()
    exact_model.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    twin = spectra(exact_model, [IMAGES.double()], tap="block")
    for key, s in found.items():
        assert 0 < s.floor < 1e-4 * s.sigma_max
        assert np.abs(s.singular_values - twin[key].singular_values).max() <= s.floor * (1 + 1e-9)


def test_replay_finds_the_precision_horizon() -> None:
    class Chaos(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = nn.ModuleList(nn.Identity() for _ in range(40))

        def forward(self, x: Tensor) -> Tensor:
            for step in self.steps:
                x = step(4 * x * (1 - x))  # the logistic map loses one bit a step
            return x

    found = spectra(Chaos(), [torch.rand(100, 3, generator=GENERATOR)], layers="steps.*", replay=100)
    statuses = [s.status for s in found.values()]
    assert statuses[:10] == ["finite"] * 10
    assert statuses[-5:] == ["unresolved"] * 5
    assert np.isnan(list(found.values())[-1].condition_number)


def test_replay_says_what_it_cannot_do() -> None:
    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.lin(x.float())

    with pytest.raises(SpectrumError, match=r"replay: the model does not run in float64 .*; say replay=0"):
        spectra(Casts(), [torch.randn(4, 3)], replay=4)


def test_a_model_is_moved_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toys.CalledTwice()
    places: list[torch.device] = []
    move = nn.Module.to
    monkeypatch.setattr(nn.Module, "to", lambda self, where: (places.append(where), move(self, where))[1])
    with pytest.raises((NotImplementedError, RuntimeError)):
        spectra(model, [torch.randn(4, 6)], device="meta")  # moving to meta works, computing there does not
    assert places[0] == torch.device("meta")
    assert places[-1] == torch.device("cpu")


def test_errors() -> None:
    model = toys.small_residual_net()
    with pytest.raises(ShapeError, match="batches holds no samples: every batch was empty, or there was none"):
        spectra(model, [])
    with pytest.raises(ShapeError, match="batches holds no samples"):
        spectra(model, [IMAGES[:0]])
    with pytest.raises(ShapeError, match="batches is int, not an iterable of tensors, pairs or dicts"):
        spectra(model, 3)
    with pytest.raises(ShapeError, match="a batch of type str holds no tensor"):
        spectra(model, ["x"])
    with pytest.raises(ConfigError, match="rows=0 is neither 'all' nor a number of positions, at least 1"):
        spectra(model, [IMAGES], rows=0)
    with pytest.raises(ConfigError, match="method='svd' is not one of auto, qr, gram"):
        spectra(model, [IMAGES], method="svd")
    with pytest.raises(UnknownNameError, match="layers='head2' matches nothing"):
        spectra(model, [IMAGES], layers="head2")
    with pytest.raises(ShapeError, match="layer 'layer' had 27 units and now has 12 in the view 'samples'"):
        spectra(Identity(), [torch.randn(4, 3, 3, 3), torch.randn(4, 3, 2, 2)], layers="layer", view="samples")
