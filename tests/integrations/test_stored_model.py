"""Networks come back from runs as they were left."""

from __future__ import annotations

import pytest
import torch

import deepprobe as dp
from deepprobe.errors import CheckpointError, RunError
from deepprobe.runs.run import step_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    images = dp.load_dataset("digits", limit=64).tensors()
    model = dp.create_model("resnet8", in_channels=1, input_size=8, base_width=4)
    config = dp.TrainConfig(epochs=2, batch_size=32, validation_share=0.0)
    return dp.train(model, images, out=tmp_path_factory.mktemp("runs"), config=config, quiet=True), model


def test_the_last_step_and_any_that_is_kept(run):
    run, model = run
    steps = [step_of(name) for name in run.files("checkpoints")]
    last = dp.load_model(run.path)
    assert all(torch.equal(a, b) for a, b in zip(last.state_dict().values(), model.state_dict().values(), strict=True))
    earlier = dp.load_model(run.path, step=steps[0])
    assert not torch.equal(earlier.classifier.weight, last.classifier.weight)
    assert torch.equal(
        dp.load_model(run.path / run.files("checkpoints")[0]).classifier.weight, earlier.classifier.weight
    )


def test_what_is_not_there_is_told(run, tmp_path):
    run, model = run
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 99; it has those of 2, 4"):
        dp.load_model(run.path, step=99)
    with pytest.raises(RunError, match=r"step=3 was asked of"):
        dp.load_model(run.path / run.files("checkpoints")[0], step=3)
    torch.save(model.state_dict(), tmp_path / "mine.pt")
    with pytest.raises(CheckpointError, match="does not name its network"):
        dp.load_model(tmp_path / "mine.pt")
