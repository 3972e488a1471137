"""The probe in a person's own loop."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
import toys

from deepprobe.errors import ConfigError
from deepprobe.probes import Probe

ROWS = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))


def test_records_only_inside_recording_and_forgets_on_reset() -> None:
    model = toys.Shared()
    with Probe(model, tap="input", compilable=False) as probe:
        model(ROWS)
        assert probe.spectra() == {}
        for _ in range(3):
            with probe.recording():
                model(ROWS)
        assert {s.n_rows for s in probe.spectra().values()} == {96}
        probe.reset()
        with probe.recording():
            model(ROWS)
        assert probe.table()["n_rows"].tolist() == [32, 32]


def test_training_is_not_disturbed() -> None:
    """The same weights, bit for bit, after training with and without an in-flight probe."""

    def train(probed: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = toys.InPlace()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        images = torch.randn(16, 3, 8, 8)
        with Probe(model, rows=4, count_units=False, compilable=False) as probe:
            for _ in range(4):
                optimizer.zero_grad()
                if probed:
                    with probe.recording():
                        loss = model(images).square().mean()
                else:
                    loss = model(images).square().mean()
                loss.backward()
                optimizer.step()
        return [p.detach().clone() for p in model.parameters()]

    for a, b in zip(train(True), train(False), strict=True):
        assert torch.equal(a, b)


def test_in_flight_counts_units_over_the_rows_used() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU())
    with torch.no_grad():
        model[0].bias[2] = -1e9
    with Probe(model, layers="1", count_units=False, compilable=False) as probe, probe.recording():
        model(ROWS)
    found = probe.spectra()["1"]
    assert found.units.n_dead == 1
    assert found.status == "singular-exact"
    assert np.isfinite(found.condition_number_live)


def test_outside_its_context_it_says_so() -> None:
    probe = Probe(toys.Shared())
    message = "the probe is not attached: use it as a context manager"
    with pytest.raises(ConfigError, match=message), probe.recording():
        pass


def test_rows_of_few_positions_are_copied_before_they_wait() -> None:
    """A layer after the hook may overwrite them in place while they wait for their turn."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(inplace=True))
    rows = torch.randn(4000, 6)
    exact = np.linalg.svd(model[0](rows).detach().double().numpy(), compute_uv=False)
    with Probe(model, rows=4) as probe, probe.recording():
        model(rows)
    assert probe.spectra()["0"].singular_values == pytest.approx(exact, rel=1e-10)


def test_shuffled_rows_that_are_not_finite_are_left_out() -> None:
    """Of the maps with a NaN the one position drawn a sample is finite; shuffling sees all positions."""
    torch.manual_seed(0)
    images = torch.randn(64, 3, 5, 5)
    spoilt = images.clone()
    spoilt[0, :, 0, 0] = float("nan")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1))
    with Probe(model, rows=1, count_units=False, shuffled_null=True, tap="input") as probe, probe.recording():
        model(images)
        model(spoilt)
    found = probe.spectra()["0"]
    assert (found.status, found.n_rows) == ("finite", 128)
    assert 1 <= found.condition_number_shuffled < 2


def test_views_without_positions_keep_no_room_for_drawn_rows():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 200_000))
    with Probe(model, view="samples", rows=4) as probe, probe.recording(last=True):
        tracemalloc.start()  # of NumPy's memory, that of the rows kept
        model(torch.randn(8, 4))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 16 * 8 * 200_000 * 8  # room for 1,024 rows would be 819 MB
    assert probe.table()["n_rows"].tolist() == [8]
