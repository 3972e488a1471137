"""Several processes: the same weights as one, interrupted together, and an end where one of them dies."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch

from deepprobe.distributed import Ranks, process_group
from deepprobe.errors import ConfigError, RankLostError
from deepprobe.runs import open_run
from deepprobe.training import TrainConfig, load_checkpoint, train
from deepprobe.training.evaluation import Tally
from deepprobe.training.stream import TensorStream

JOB = Path(__file__).with_name("ddp_job.py")


def launch(out, what, *, limit=180):
    """Two processes; their exit code and what they said."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(JOB)]
    done = subprocess.run(
        [*command, str(out), what], capture_output=True, text=True, timeout=limit,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs of two processes: one whole, one interrupted on rank 1 at step 5 and resumed."""
    folder = tmp_path_factory.mktemp("ddp")
    code, said = launch(folder / "whole", "")
    assert code == 0, said
    code, said = launch(folder / "resumed", "interrupt")
    assert code != 0
    assert "stopped at step 1ep1it" in said
    assert "nothing was kept" not in said
    assert open_run(folder / "resumed").status == "interrupted"
    code, said = launch(folder / "resumed", "")
    assert code == 0, said
    return folder


def test_two_processes_give_the_weights_of_one_in_two_micro_batches(folder):
    job = runpy.run_path(str(JOB))
    model = job["small_net"]()
    train_set, test_set = job["digits"]()
    config = TrainConfig(**job["CONFIG"].as_dict() | {"validation_share": 0.0, "micro_batches": 2})
    run = train(model, train_set, test_set=test_set, config=config, quiet=True)
    found = load_checkpoint(folder / "whole.pt").weights
    for name, weights in model.named_parameters():
        torch.testing.assert_close(found[name], weights.detach(), rtol=1e-5, atol=1e-7)
    split = "split == 'train' and measure in ('loss', 'accuracy', 'n_predicted_classes', 'top_prediction_share')"
    ours = open_run(folder / "whole").metrics().query(split)["value"].tolist()
    assert ours == pytest.approx(run.metrics().query(split)["value"].tolist(), rel=1e-5)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_no_thread_of_the_group_outlives_it_and_aborts_the_process(folder):
    assert [(folder / f"whole.threads-{rank}").read_text() for rank in (0, 1)] == ["0", "0"]


def test_two_processes_interrupted_together_go_on_to_the_same_bits(folder):
    whole, resumed = (load_checkpoint(folder / f"{name}.pt").weights for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    lasting = "not measure.str.contains('second')"  # samples a second and the like differ
    tables = [open_run(folder / name).metrics().query(lasting) for name in ("whole", "resumed")]
    assert tables[0]["value"].tolist() == tables[1]["value"].tolist()
    assert open_run(folder / "whole").provenance["processes"] == 2
    assert open_run(folder / "whole-again").status == "complete"  # the processes meet once, and train twice


def test_a_process_that_dies_ends_the_run_with_its_error(tmp_path):
    code, said = launch(tmp_path / "r", "die")  # TimeoutExpired if the other one waited for ever
    assert code != 0
    assert "ValueError: rank 1 dies of this" in said


@pytest.mark.parametrize(("n", "world"), [(8, 3), (2, 3), (100, 7), (0, 2)])
def test_shares_are_everything_once_in_order(n, world):
    things = list(range(n))
    shares = [things[Ranks(rank, world).share(n)] for rank in range(world)]
    assert list(chain(*shares)) == things
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_alone_agrees_with_itself():
    alone = Ranks()
    assert alone.agree([True, False]) == [True, False]
    assert alone.gather("x") == ["x"]
    assert alone.broadcast("x") == "x"
    assert alone.total(torch.tensor(3.0)).item() == 3.0
    assert alone.is_main


@pytest.mark.parametrize(("n", "batches"), [(100, 2), (103, 2), (104, 3), (101, 2)])
def test_a_last_batch_with_less_than_two_samples_a_part_is_left_out(n, batches):
    data = (torch.zeros(n, 1), torch.zeros(n, dtype=torch.int64))
    streams = [TensorStream(data, batch_size=50, seed=0, ranks=Ranks(rank, 2)) for rank in range(2)]
    parts = [list(stream.batches(0)) for stream in streams]
    assert [len(p) for p in parts] == [batches, batches]
    for one, other in zip(*parts, strict=True):
        assert len(one.x) + len(other.x) == one.n_in_all == other.n_in_all
        assert len(other.x) >= 2


def test_more_processes_than_samples_are_refused():
    data = (torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ConfigError, match="a batch of 3 samples cannot be divided among 4 processes and 1 micro-b"):
        TensorStream(data, batch_size=50, seed=0, ranks=Ranks(0, 4))


def test_merged_tallies_are_one_tally():
    logits, labels = torch.randn(30, 4), torch.randint(4, (30,))
    whole, first, second = Tally(), Tally(), Tally()
    loss = torch.nn.functional.cross_entropy
    for tally, part in ((whole, slice(None)), (first, slice(0, 12)), (second, slice(12, 30))):
        tally.add(logits[part], labels[part], loss=loss(logits[part], labels[part]))
    first.merge(second)
    first.merge(Tally())
    assert first.read() == pytest.approx(whole.read(), rel=1e-6)


def test_what_the_exchange_itself_complains_of_is_told(monkeypatch):
    monkeypatch.setattr("deepprobe.distributed.current_ranks", lambda: Ranks(0, 2))
    said = "NCCL error: Duplicate GPU detected"
    with pytest.raises(RankLostError, match=said), process_group(torch.device("cpu")):
        raise RuntimeError(f"{said}\nand more")
    with pytest.raises(RuntimeError, match="mat1") as error, process_group(torch.device("cpu")):
        raise RuntimeError("mat1 and mat2 do not fit")
    assert not isinstance(error.value, RankLostError)


def test_processes_are_not_sent_to_one_gpu(monkeypatch, net, few):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="device='cuda:0': all processes of torchrun would take this one GPU"):
        train(net(), few[0], config=TrainConfig(device="cuda:0"), quiet=True)
