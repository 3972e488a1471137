"""Standard errors and the shuffled null, from a model's layers, against both recomputed in full with NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deepprobe.errors import ConfigError
from deepprobe.linalg.matricize import VIEWS, shuffled_samples
from deepprobe.probes import Probe, condition_numbers, spectra
from deepprobe.records.frame import tidy, wide
from deepprobe.records.spectrum import Spectrum

GENERATOR = torch.Generator().manual_seed(0)
MIXING = torch.randn(4, 4, generator=GENERATOR)
IMAGES = torch.einsum("ij,njhw->nihw", MIXING, torch.randn(70, 4, 6, 6, generator=GENERATOR) + 0.5)
TOKENS = torch.randn(45, 9, 5, generator=GENERATOR)


class Identity(nn.Module):
    """Passes what it is given through one named layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def probed(batches: Any, **options: Any) -> Spectrum:
    return spectra(Identity(), batches, layers="layer", progress=False, **options)["layer"]


def rows_of(tensor: Tensor, view: str) -> np.ndarray:
    t = tensor.double()
    if view == "pooled":
        t = t.mean((2, 3), keepdim=True)
    units_last = t if view == "tokens" or t.ndim == 2 else t.movedim(1, -1)
    return units_last.reshape(-1, units_last.shape[-1]).numpy()


def conditions(rows: np.ndarray) -> tuple[float, float]:
    return float(np.linalg.cond(rows)), float(np.linalg.cond(rows - rows.mean(axis=0)))


def recomputed_errors(tensor: Tensor, view: str, g: int) -> np.ndarray:
    group = np.arange(len(tensor)) % g
    logs = np.log10([conditions(rows_of(tensor[torch.from_numpy(group != i)], view)) for i in range(g)])
    return np.sqrt((g - 1) / g * ((logs - logs.mean(axis=0)) ** 2).sum(axis=0))


@pytest.mark.parametrize("method", ["qr", "gram"])
@pytest.mark.parametrize(
    ("view", "data"), [("channels", IMAGES), ("pooled", IMAGES), ("tokens", TOKENS), ("channels", TOKENS[:, 0])]
)
@pytest.mark.parametrize("g", [2, 5, 16])
def test_standard_error_is_that_of_leaving_groups_out(view: str, data: Tensor, g: int, method: str) -> None:
    plain = probed(data.split([3, 20, len(data) - 23]), view=view, method=method)
    found = probed(data.split([3, 20, len(data) - 23]), view=view, error_groups=g, method=method)
    assert found.centred is not None
    assert plain.centred is not None
    np.testing.assert_allclose(found.singular_values, plain.singular_values, rtol=1e-12)
    np.testing.assert_allclose(found.centred.singular_values, plain.centred.singular_values, rtol=1e-12)
    assert (found.n_rows, found.units, found.status) == (plain.n_rows, plain.units, plain.status)
    errors = [found.condition_number_se, found.centred.condition_number_se]
    np.testing.assert_allclose(errors, recomputed_errors(data, view, g), rtol=1e-5)
    assert np.isnan(plain.condition_number_se)
    assert np.isnan(plain.condition_number_shuffled)


def test_groups_do_not_depend_on_the_batches() -> None:
    errors = [probed(IMAGES.split(size), error_groups=8).condition_number_se for size in (1, 7, 16, 70)]
    np.testing.assert_allclose(errors, errors[0], rtol=1e-9)


def test_positions_of_a_sample_stay_together() -> None:
    """A hundred copies of each sample's row add nothing: groups of rows would shrink the error tenfold."""
    one = torch.randn(64, 3, 1, 1, generator=GENERATOR)
    errors = [probed([x], error_groups=16).condition_number_se for x in (one, one.expand(-1, -1, 10, 10))]
    assert errors[1] == pytest.approx(errors[0], rel=1e-9)


def test_wide_layers_have_no_standard_error() -> None:
    found = probed([torch.randn(1100, 1025, generator=GENERATOR)], error_groups=4)
    assert found.condition_number > 1
    assert np.isnan(found.condition_number_se)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_shuffling_permutes_whole_maps_of_one_unit_at_a_time(memory: torch.memory_format) -> None:
    maps = torch.arange(6 * 3 * 4).reshape(6, 3, 2, 2).contiguous(memory_format=memory).flatten(2)
    shuffled = shuffled_samples(maps, torch.Generator().manual_seed(1))
    orders = set()
    for unit in range(3):
        order = [int((maps[:, unit, 0] == first).nonzero()) for first in shuffled[:, unit, 0]]
        assert sorted(order) == list(range(6))
        assert torch.equal(shuffled[:, unit], maps[order, unit])
        orders.add(tuple(order))
    assert len(orders) == 3


@pytest.mark.parametrize("method", ["qr", "gram"])
@pytest.mark.parametrize("view", ["channels", "pooled"])
def test_shuffled_null_is_that_of_the_permuted_maps(view: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = []
    draw = torch.rand

    def noted(*shape: Any, **options: Any) -> Tensor:
        drawn = draw(*shape, **options)
        orders.append(np.argsort(drawn.numpy(), axis=0))
        return drawn

    monkeypatch.setattr(torch, "rand", noted)
    batches = IMAGES.split([30, 39, 1])
    found = probed(batches, view=view, shuffled_null=True, method=method)
    permuted = []
    for batch, order in zip(batches, orders, strict=False):  # a batch of one cannot be shuffled, and is left out
        permuted.append(torch.stack([batch[order[:, unit], unit] for unit in range(4)], dim=1))
    assert [len(p) for p in permuted] == [30, 39]
    assert found.centred is not None
    expected = conditions(rows_of(torch.cat(permuted), view))
    kappas = [found.condition_number_shuffled, found.centred.condition_number_shuffled]
    np.testing.assert_allclose(kappas, expected, rtol=1e-5 if view == "pooled" else 1e-10)
    assert found.centred.condition_number_shuffled < 0.7 * found.centred.condition_number
    np.testing.assert_array_equal(found.singular_values, probed(batches, view=view, method=method).singular_values)


def test_shuffled_null_is_seeded_and_takes_random_positions() -> None:
    kappas = [probed([IMAGES], shuffled_null=True, rows=4, seed=seed).condition_number_shuffled for seed in (0, 0, 1)]
    assert kappas[0] == kappas[1] != kappas[2]
    assert probed([IMAGES], rows=4).condition_number == probed([IMAGES], rows=4, shuffled_null=True).condition_number


def test_values_that_are_not_finite_stay_out_of_the_shuffled_rows() -> None:
    """In flight only the positions that are used are looked at; the shuffled rows use others."""
    bad = IMAGES[:, :, :1, :2].clone()
    bad[3, 1, 0, 0] = float("nan")
    overlooked = []
    for seed in range(16):
        options = {"rows": 1, "shuffled_null": True, "count_units": False, "seed": seed}
        with Probe(model := Identity(), layers="layer", **options) as probe:
            for batch in (bad, IMAGES[:, :, :1, :2]):
                with probe.recording():
                    model(batch)
        overlooked += [s for s in probe.spectra().values() if s.status == "finite"]
    assert 0 < len(overlooked) < 16
    assert all(np.isfinite(s.condition_number_shuffled) for s in overlooked)


def test_single_samples_cannot_be_shuffled() -> None:
    assert np.isnan(probed(IMAGES.split(1), shuffled_null=True).condition_number_shuffled)


def test_both_stand_in_the_table_and_in_the_tidy_frame() -> None:
    table = condition_numbers(Identity(), [IMAGES], layers="layer", error_groups=8, shuffled_null=True, progress=False)
    names = [p + f"condition_number_{m}" for p in ("", "centred_") for m in ("se", "shuffled")]
    assert np.isfinite(table[names].to_numpy()).all()
    back = wide(tidy(table))
    np.testing.assert_array_equal(back[names].to_numpy(), table[names].to_numpy())


def test_a_gram_matrix_is_certified_by_the_rows_themselves() -> None:
    rows = torch.randn(200, 4, generator=GENERATOR, dtype=torch.float64)
    rows[:, 3] = rows[:, 0] * (1 + 2.0**-40)
    rows[:, 3] += 1e-9 * rows[:, 1]
    found = probed([rows], method="gram", certify=True)
    assert (found.status, found.certificate) == ("singular-at-precision", 4)


@pytest.mark.parametrize("view", VIEWS)
def test_views_that_have_neither_say_so(view: str) -> None:
    for option, views in (
        ({"error_groups": 16}, ["channels", "pooled", "tokens"]),
        ({"shuffled_null": True}, ["channels", "pooled"]),
    ):
        if view in views:
            Probe(Identity(), layers="layer", view=view, **option)
            continue
        (name, value), *_ = option.items()
        with pytest.raises(ConfigError) as caught:
            Probe(Identity(), layers="layer", view=view, **option)
        assert str(caught.value) == f"{name}={value}: view={view!r} has none, only {', '.join(views)}"


@pytest.mark.parametrize("wrong", [1, -2, True, 2.0, "16"])
def test_a_wrong_number_of_groups(wrong: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Probe(Identity(), layers="layer", error_groups=wrong)
    assert str(caught.value) == f"error_groups={wrong!r} is neither 0, for none, nor a number of groups, at least 2"
