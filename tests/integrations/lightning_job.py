"""What each process of ``test_lightning.py``'s test of several processes runs: ``torchrun lightning_job.py OUT``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from test_lightning import BATCH, PROBED, Convnet, data, fit
from torch.utils.data import DataLoader

from deepprobe.integrations import InFlightCallback, ProbeCallback, UpdateCallback
from deepprobe.integrations.lightning import DeepprobeCallback
from deepprobe.runs import FolderRun

if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    watching = [ProbeCallback("1ep", **PROBED), InFlightCallback("2it", rows="all"), UpdateCallback("2it")]
    model, callback = Convnet(), DeepprobeCallback(watching, out=out / "run")
    trainer = fit(model, callback, loader=DataLoader(data(n=80), BATCH), devices=2, strategy="ddp")
    assert isinstance(callback.run, FolderRun) == (trainer.global_rank == 0)
    if trainer.global_rank == 0:
        torch.save(model.state_dict(), out / "weights.pt")
