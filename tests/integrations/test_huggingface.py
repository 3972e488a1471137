"""Hugging Face's own Trainer with deepprobe's callbacks alongside, on a small BERT that is made here."""

from __future__ import annotations

from contextlib import contextmanager

import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from deepprobe.integrations import (
    GradientCallback,
    InFlightCallback,
    ProbeCallback,
    UpdateCallback,
    WeightCallback,
)
from deepprobe.integrations.huggingface import DeepprobeCallback
from deepprobe.probes import condition_numbers
from deepprobe.records.step import every
from deepprobe.runs import open_run

PROBED = {"layers": "bert.encoder.*.dense", "tap": "input", "view": "tokens", "rows": "all"}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def bert(dropout=0.1):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertForSequenceClassification(
            BertConfig(
                vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
                max_position_embeddings=12, num_labels=3, hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
            )
        )  # fmt: skip


def data(seed=0, n=28):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 40, (n, 8), generator=generator)
    return [{"input_ids": i, "attention_mask": torch.ones(8, dtype=torch.long), "labels": i.sum() % 3} for i in ids]


def batches():
    """The training samples in batches of 4, without labels."""
    rows = data()
    return [
        {key: torch.stack([row[key] for row in rows[i : i + 4]]) for key in ("input_ids", "attention_mask")}
        for i in range(0, len(rows), 4)
    ]


def trainer_of(model, folder, *callbacks, **options):
    """A Trainer with 4 updates an epoch: 7 batches of 4, accumulated in twos."""
    settings = {"num_train_epochs": 2, "logging_steps": 2, "save_strategy": "no", "eval_strategy": "epoch"} | options
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=4, gradient_accumulation_steps=2, use_cpu=True,
        learning_rate=1e-2, report_to=[], disable_tqdm=True, seed=3, optim="sgd", lr_scheduler_type="constant",
        **settings,
    )  # fmt: skip
    return Trainer(model, arguments, train_dataset=data(), eval_dataset=data(1), callbacks=list(callbacks))


def test_the_table_is_that_of_condition_numbers_on_the_same_weights(tmp_path):
    model, callback = bert(), DeepprobeCallback([ProbeCallback("1ep", **PROBED)])
    trainer_of(model, tmp_path, callback).train()
    expected = condition_numbers(model, batches(), **PROBED, progress=False)
    found = callback.run.layers().query("step == 8").reset_index(drop=True)
    columns = [c for c in expected.columns if c in found]
    assert {"condition_number", "centred_status", "numerical_rank", "n_rows"} <= set(columns)
    assert len(found) == 6
    pd.testing.assert_frame_equal(found[columns], expected[columns], check_dtype=False)
    assert callback.run.steps_probed() == [0, 4, 8]
    assert callback.run.status == "complete"


def test_what_the_trainer_logs_is_in_the_run(tmp_path):
    callback = DeepprobeCallback([])
    trainer = trainer_of(bert(), tmp_path, callback)
    trainer.train()
    trainer.evaluate()  # after the end: no part of the run
    metrics = callback.run.metrics()
    losses = metrics.query("split == 'train' and measure == 'loss'")
    assert list(losses["step"]) == [2, 4, 6, 8]
    assert list(losses["epoch"]) == [0.5, 1.0, 1.5, 2.0]
    held_out = metrics.query("split == 'validation' and measure == 'loss'")
    assert list(held_out["step"]) == [4, 8]
    history = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert list(held_out["value"]) == history[:2]
    assert set(metrics["seed"]) == {3}
    assert "epoch" not in set(metrics["measure"])


class Updates:
    """Weights before and after an update, and the gradient then."""

    schedule = every("2it").schedule

    def __init__(self):
        self.seen = []

    @contextmanager
    def around_update(self, context):
        before = [p.detach().clone() for p in context.model.parameters()]
        yield
        after = [p.detach().clone() for p in context.model.parameters()]
        self.seen.append((context.step.index, before, after, [p.grad.clone() for p in context.model.parameters()]))


def test_an_update_is_seen_with_the_gradient_that_made_it(tmp_path):
    updates = Updates()
    trainer_of(bert(), tmp_path, DeepprobeCallback([updates]), max_grad_norm=0.01).train()
    assert [step for step, *_ in updates.seen] == [2, 4, 6, 8]
    for _, before, after, gradients in updates.seen:
        assert sum(float((g**2).sum()) for g in gradients) ** 0.5 <= 0.01 * (1 + 1e-5)
        for b, a, g in zip(before, after, gradients, strict=True):
            torch.testing.assert_close(a, b - 1e-2 * g)


def test_every_callback_of_deepprobe_stands_beside_accumulated_batches(tmp_path):
    dense = {"layers": "bert.encoder.*.dense"}
    watching = [InFlightCallback("2it", **dense, view="tokens", rows="all"), UpdateCallback("2it", **dense)]
    asked = [GradientCallback("1ep", **dense), WeightCallback("1ep", **dense)]
    callback = DeepprobeCallback([*watching, *asked])
    trainer_of(bert(), tmp_path, callback).train()
    layers = callback.run.layers().set_index(["tap", "step"]).sort_index()
    assert {tap: sorted(set(layers.loc[tap].index)) for tap in ("input", "update", "gradient", "weight")} == {
        "input": [2, 4, 6, 8], "update": [2, 4, 6, 8], "gradient": [0, 4, 8], "weight": [0, 4, 8],
    }  # fmt: skip
    assert [set(layers.loc[("input", step), "n_rows"]) for step in (2, 4, 6, 8)] == [{64}, {32}, {64}, {32}]
    assert (layers.loc["gradient", "gradient_norm"] > 0).all()


def test_training_goes_on_as_if_nobody_looked(tmp_path):
    looked_at, alone = bert(), bert()
    trainer_of(looked_at, tmp_path, DeepprobeCallback([ProbeCallback("1it", **PROBED | {"rows": 3})])).train()
    trainer_of(alone, tmp_path).train()
    pairs = zip(looked_at.state_dict().values(), alone.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_resumed_training_has_the_rows_of_one_that_was_not_stopped(tmp_path):
    def callback(name):
        return DeepprobeCallback([ProbeCallback("1it", **PROBED)], out=tmp_path / "runs", name=name)

    options = {"save_strategy": "steps", "save_steps": 3, "logging_steps": 1, "eval_strategy": "no"}
    whole = callback("whole")
    trainer_of(bert(), tmp_path / "a", whole, **options).train()

    def stop(context):
        if context.step.index == 5:
            raise RuntimeError("stopped")

    stopped = callback("stopped")
    stopped.callbacks.append(every("1it")(stop))
    with pytest.raises(RuntimeError, match="stopped"):
        trainer_of(bert(), tmp_path / "b", stopped, **options).train()
    stopped.close()
    assert (stopped.run.status, stopped.run.message) == ("interrupted", "training ended early")
    assert stopped.run.steps_probed() == [0, 1, 2, 3, 4, 5]
    trainer_of(bert(), tmp_path / "b", callback("stopped"), **options).train(resume_from_checkpoint=True)
    run = open_run(tmp_path / "runs" / "stopped")
    since_it_began = ["runtime", "samples_per_second", "steps_per_second", "total_flos", "loss_overall"]
    records = [r.records().drop(columns="run") for r in (run, whole.run)]
    found, expected = (frame[~frame["measure"].isin(since_it_began)] for frame in records)
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected.reset_index(drop=True))
    assert set(found["step"]) == set(range(9))
    assert run.status == "complete"
