"""What must hold on every device: the CPU here, and a GPU where there is one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import deepprobe as dp
from deepprobe.records.step import at
from deepprobe.training import TrainConfig, train

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
pytestmark = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_GPU)])


def images(n=96, *, seed=0):
    """Noise with a trace of its label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (n,), generator=generator)
    return torch.randn(n, 3, 8, 8, generator=generator) + labels[:, None, None, None] / 4, labels


def resnet(seed=0):
    return dp.create_model("resnet8", num_classes=4, input_size=8, seed=seed)


class Stop(Exception):
    pass


def stop(context):
    raise Stop


@pytest.mark.parametrize(
    "settings", [{}, {"precision": "bf16", "channels_last": True, "augmentation": "pad-crop-flip"}]
)
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, device, settings):
    config = TrainConfig(epochs=2, batch_size=32, lr=0.05, device=device, checkpoint_every="1it", **settings)
    whole, resumed = resnet(), resnet()
    train(whole, images(), test_set=images(seed=1), config=config, quiet=True)
    with pytest.raises(Stop):
        train(
            resnet(), images(), test_set=images(seed=1), config=config, out=tmp_path / "r", quiet=True,
            callbacks=[at("4it")(stop)],
        )  # fmt: skip
    train(resumed, images(), test_set=images(seed=1), config=config, out=tmp_path / "r", quiet=True)
    for name, weights in whole.state_dict().items():
        assert torch.equal(weights, resumed.state_dict()[name]), name


@pytest.mark.parametrize("rows", ["all", 4])
def test_the_devices_own_accumulator_gives_what_qr_gives(device, rows):
    model = resnet().to(device)
    x, _ = images(64)
    options = {"tap": "input", "view": "channels", "rows": rows, "progress": False}
    mine = dp.condition_numbers(model, [x], method="gram", **options)
    oracle = dp.condition_numbers(model.cpu(), [x], method="qr", **options)
    assert mine["layer"].tolist() == oracle["layer"].tolist()
    assert (mine["n_dead"] == oracle["n_dead"]).all()
    if rows == "all":  # drawn rows are other rows on another device
        finite = (oracle["status"] == "finite") & (oracle["condition_number"] < 1e4)
        assert finite.sum() > 3
        ratio = mine["condition_number"][finite] / oracle["condition_number"][finite]
        assert (ratio - 1).abs().max() < (1e-6 if device == "cpu" else 1e-2)  # a GPU's convolutions round otherwise


def test_outputs_are_the_same_with_and_without_a_probe(device):
    model = resnet().to(device).eval()
    x = images(32)[0].to(device)
    with torch.no_grad():
        plain = model(x)
        with dp.Probe(model, rows=4, method="gram") as probe, probe.recording():
            watched = model(x)
    assert torch.equal(plain, watched)


def test_a_loss_that_is_not_finite_is_found_with_its_layer(device):
    class Infinite(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += self.training
            return x * (float("inf") if self.calls > 3 else 1.0)

    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), Infinite(), nn.Linear(16, 4))
    run = train(model, images(), config=TrainConfig(epochs=9, batch_size=32, device=device), quiet=True)
    assert run.status == "diverged"
    assert run.message.startswith("the loss of the network at step 1ep")
    assert run.message.endswith("the first thing not finite is the output of '2'")
    assert all(torch.isfinite(p).all() for p in model.parameters())
