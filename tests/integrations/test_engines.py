"""Engines: order, failures, lost workers and Ctrl-C are the same with each; Ray and submitit's jobs are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from deepprobe.errors import ConfigError, MissingPackageError, SweepError
from deepprobe.integrations.engines import LocalEngine, RayEngine, SlurmEngine
from deepprobe.integrations.engines.local import _environment
from deepprobe.integrations.engines.sweep import WorkerLostError, drive
from deepprobe.pruning import LotteryConfig, lottery_tasks
from deepprobe.pruning.lottery.tasks import Task
from deepprobe.records.step import every
from deepprobe.runs import open_run
from deepprobe.training import TrainConfig, load_checkpoint


@dataclass(frozen=True)
class Book:
    """A file that tasks in any process write lines to, in the order of events."""

    path: Path

    def task(self, branch, *needs, seed=0, after=lambda: None):
        """A task that notes itself; a closure, which only cloudpickle takes."""
        path, key = self.path, f"seed{seed}-{branch}"

        def call():
            def note(word):
                with path.open("a") as file:
                    file.write(f"{word} {key}\n")

            note("begin")
            after()
            note("end")

        return Task(key=("OUT", seed, branch), needs=tuple(("OUT", seed, need) for need in needs), call=call)

    def lines(self):
        return self.path.read_text().splitlines() if self.path.exists() else []


@pytest.fixture
def book(tmp_path):
    return Book(tmp_path / "book")


@pytest.fixture(scope="module")
def ray_started():
    import ray

    ray.init(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def failing():
    def fails():
        raise ValueError("no such luck\nand more")

    return fails


def once(path):
    """What kills its own process the first time."""

    def call():
        import os
        import signal

        if not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return call


def engines(tmp_path, **options):
    """Each engine that runs tasks in processes of their own, two at once."""
    return {
        "local": lambda: LocalEngine(n_workers=2, **options),
        "ray": lambda: RayEngine(n_cpus=1, **options),
        "slurm": lambda: SlurmEngine(tmp_path, cluster="local", at_once=2, **options),
    }


@pytest.fixture(params=["local", "ray", "slurm"])
def engine(request, tmp_path, monkeypatch):
    """Function that makes an engine."""
    if request.param == "ray":
        request.getfixturevalue("ray_started")
    if request.param == "slurm":  # what a shared file system is given to show the result of a job that died
        monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 0)
    return lambda **options: engines(tmp_path, **options)[request.param]()


def lottery(out, *callbacks):
    """A round of a ticket and a control of it."""
    config = LotteryConfig(
        training=TrainConfig(epochs=1, batch_size=256, lr=0.1, checkpoint_every="2it", device="cpu"),
        rounds=1, controls=("reinit",), probe_samples=0,
    )  # fmt: skip
    return lottery_tasks("lenet300_100", "digits", config, out=out, callbacks=callbacks, quiet=True)


def end_of(run):
    """Masks and weights of a run, as they are to the bit."""
    run = open_run(run)
    weights = load_checkpoint(run.check(run.files("checkpoints")[-1])).weights
    return run.check("masks.safetensors").read_bytes(), {name: w.numpy().tobytes() for name, w in weights.items()}


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Of each run of the lottery, trained in this process with the one thread that workers have."""
    out, threads = tmp_path_factory.mktemp("lottery") / "out", torch.get_num_threads()
    torch.set_num_threads(1)
    LocalEngine(quiet=True).run(lottery(out))
    torch.set_num_threads(threads)
    return {path.name: end_of(path) for path in out.iterdir() if path.is_dir()}


SLOW = [pytest.mark.slow, pytest.mark.timeout(1200)]
"""Each worker loads torch; what the engines have in common is tried with one of them by default."""


@pytest.mark.parametrize(
    "engine", ["local", pytest.param("ray", marks=SLOW), pytest.param("slurm", marks=SLOW)], indirect=True
)
def test_a_lottery_ends_the_same_when_a_worker_is_killed_and_a_task_fails(
    engine, book, ends, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kill = once(tmp_path / "killed")

    @every("5it")
    def killer(context):
        if context.run.name == "seed0-round01-ticket":
            kill()

    tasks = [*lottery(tmp_path, killer), book.task("a", after=failing()), book.task("b", "a")]
    with pytest.raises(SweepError) as error:
        engine().run(tasks)
    assert str(error.value) == (
        "1 of 4 tasks failed, 1 not started because they need what failed, 2 are done "
        "(OUT, seed 0, a: ValueError: no such luck); once that is mended, the same command goes on with what is missing"
    )
    assert "in fails" in error.value.__notes__[0], "no traceback"
    assert book.lines() == ["begin seed0-a"]
    assert (tmp_path / "killed").exists()
    assert len(ends) == 3
    assert {name: end_of(tmp_path / name) for name in ends} == ends
    assert capsys.readouterr().err.splitlines()[-1] == f"3 of 4: {tmp_path}, seed 0, reinit: done"


@pytest.mark.parametrize("engine", ["ray", "slurm"], indirect=True)
def test_a_killed_worker_starts_again_and_what_needs_it_waits(engine, book, tmp_path):
    with pytest.raises(SweepError, match=r"^1 of 3 tasks failed, 2 are done \(OUT, seed 1, c: ValueError: no such"):
        engine(quiet=True).run([
            book.task("b", "a"), book.task("a", after=once(tmp_path / "killed")),
            book.task("c", seed=1, after=failing()),
        ])  # fmt: skip
    lines = [line for line in book.lines() if "seed0" in line]
    assert lines == ["begin seed0-a", "begin seed0-a", "end seed0-a", "begin seed0-b", "end seed0-b"]
    if (tmp_path / "jobs").exists():  # submitit's folders of what did not end well
        kept = {path.name.rpartition("-")[0] for path in (tmp_path / "jobs").iterdir()}
        assert kept == {"OUT-seed-0-a", "OUT-seed-1-c"}


class Fragile:
    """Workers that lose what they are told to, as often as they are told."""

    def __init__(self, **losses):
        self.losses, self.started, self.cancelled = losses, [], []

    def start(self, task):
        self.started.append(task.key[2])
        return len(self.started) - 1

    def wait(self, jobs):
        return [min(jobs)]

    def outcome(self, job):
        branch = self.started[job]
        self.losses[branch] = self.losses.get(branch, 0) - 1
        if self.losses[branch] >= 0:
            raise WorkerLostError("its machine burnt down")

    def cancel(self, jobs):
        self.cancelled += jobs


def test_a_worker_that_is_always_lost_is_given_up(book, capsys):
    workers = Fragile(a=2, b=9)
    with pytest.raises(SweepError, match=r"seed 0, b: its machine burnt down, 3 times\)"):
        drive([book.task("a"), book.task("b"), book.task("c", "a")], workers, at_once=2, retries=2, quiet=True)
    assert sorted(workers.started) == ["a"] * 3 + ["b"] * 3 + ["c"]
    assert workers.cancelled == []
    assert capsys.readouterr().err == ""


def test_one_worker_is_this_process(book):
    seen = []
    here = Task(key=("OUT", 0, "a"), needs=(), call=lambda: seen.append(os.getpid()))
    LocalEngine(quiet=True).run([book.task("b", "a"), here])
    assert seen == [os.getpid()]
    assert book.lines() == ["begin seed0-b", "end seed0-b"]


def test_processes_share_threads_and_gpus(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [_environment(seat, 3)["CUDA_VISIBLE_DEVICES"] for seat in range(3)] == ["0", "1", "0"]
    assert _environment(0, 3)["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert _environment(1, 2)["CUDA_VISIBLE_DEVICES"] == "5"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert "CUDA_VISIBLE_DEVICES" not in _environment(1, 2)


SWEEP = """
from deepprobe.integrations.engines import LocalEngine
from deepprobe.pruning.lottery.tasks import Task

def call():
    import os, time
    print(os.getpid(), flush=True)
    time.sleep(60)

LocalEngine(n_workers=2, quiet=True).run([Task(key=("OUT", seed, "ticket"), needs=(), call=call) for seed in range(2)])
"""


def test_processes_end_with_the_one_that_asked():
    with subprocess.Popen([sys.executable, "-c", SWEEP], stdout=subprocess.PIPE, text=True) as sweep:
        pids = [int(sweep.stdout.readline()) for _ in range(2)]
        assert all(map(alive, pids))
        sweep.kill()
        sweep.wait(timeout=20)
    limit = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def _interruptible():
    """Ctrl-C as in a terminal, also where the tests themselves run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize(
    "engine", ["local", pytest.param("ray", marks=SLOW), pytest.param("slurm", marks=SLOW)], indirect=True
)
def test_ctrl_c_cancels_what_runs(engine, book):
    started = book.path.with_name("pid")

    def sleeps():
        import os
        import time

        started.with_suffix(".aside").write_text(str(os.getpid()))
        started.with_suffix(".aside").rename(started)
        time.sleep(60)

    def interrupt():
        while not started.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        engine(quiet=True).run([book.task("a", after=sleeps)])
    limit = time.monotonic() + 10
    while alive(int(started.read_text())) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not alive(int(started.read_text()))
    assert book.lines() == ["begin seed0-a"]


@pytest.mark.parametrize(
    ("branches", "said"),
    [
        ([("a",), ("a",)], "two tasks are called 'OUT, seed 0, a'; each needs a key of its own"),
        ([("a", "b")], r"task 'OUT, seed 0, a' needs \('OUT', 0, 'b'\), which is no task of this sweep"),
        ([("a", "b"), ("b", "a")], r"tasks need each other in a circle: OUT, seed 0, a → .*b → .*a"),
    ],
)
def test_tasks_that_do_not_fit_together(book, branches, said):
    with pytest.raises(ConfigError, match=f"^{said}$"):
        LocalEngine().run([book.task(*branch) for branch in branches])
    assert book.lines() == []


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LocalEngine(n_workers=0), "n_workers=0, retries=3: at least 1 and 0 are needed"),
        (lambda: RayEngine(n_cpus=0), "n_cpus=0, n_gpus=0, retries=3: the first must be above 0"),
        (lambda: SlurmEngine("jobs", n_gpus=-1), "n_gpus=-1, .*at least 1, 1, 0, 1 and 0 are needed"),
        (lambda: SlurmEngine("jobs", cluster="lsf"), "cluster='lsf': must be 'slurm', 'local' or None"),
        (lambda: SlurmEngine("jobs", cluster="slurm"), "there is no Slurm here"),
    ],
)
def test_settings_out_of_range(make, said, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=said):
        make()


def test_an_option_that_submitit_does_not_know(book, tmp_path):
    engine = SlurmEngine(tmp_path, cluster="local", options={"slurm_acount": "physics"})
    with pytest.raises(ConfigError, match=r"^the job cannot be submitted: .*slurm_acount"):
        engine.run([book.task("a")])
    assert book.lines() == []


@pytest.mark.parametrize(("make", "package"), [(RayEngine, "ray"), (lambda: SlurmEngine("jobs"), "submitit")])
def test_a_missing_package_is_said_before_anything_runs(make, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    extra = {"ray": "ray", "submitit": "slurm"}[package]
    with pytest.raises(MissingPackageError, match=rf"install it with: pip install 'deepprobe\[{extra}\]'$"):
        make()
