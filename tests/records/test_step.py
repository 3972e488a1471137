"""Steps and schedules against plain arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepprobe.errors import ConfigError
from deepprobe.records.step import At, Every, Length, Step, at, every


@pytest.mark.parametrize(
    ("text", "iterations"), [("1ep", 20), ("500it", 500), ("120ep50it", 2450), ("0it", 0), ("0ep", 0), ("0ep3it", 3)]
)
def test_a_length_in_words_is_so_many_iterations(text, iterations):
    assert Length.parse(text).iterations_in(20) == iterations


@pytest.mark.parametrize(
    "text", ["", "ep", "1", "1e", "-1ep", "1.5ep", " 1ep", "1ep ", "5it1ep", "1EP", "1ep\n", "٣ep", None, 3]
)
def test_other_texts_are_refused_with_the_forms_that_are_read(text):
    with pytest.raises(ConfigError) as error:
        Length.parse(text)
    assert str(error.value) == f"{text!r} is no length of training; write it as '1ep', '500it' or '120ep50it'"


@given(st.integers(0, 10**6), st.integers(1, 10**4))
def test_a_step_is_written_as_it_is_read(index, per_epoch):
    step = Step(index, per_epoch)
    assert Step.parse(str(step), per_epoch) == step
    assert step.epoch * per_epoch + step.iteration == index
    assert step.next().index == index + 1


def test_steps_are_ordered_by_their_index_and_hashable():
    assert Step(3, 10) < Step(4, 10) <= Step(4, 10) == Step(4, 10)
    assert len({Step(3, 10), Step(3, 10), Step(3, 20)}) == 2
    assert Step(3, 10) != 3


def test_an_epoch_ends_after_its_last_iteration_and_not_at_the_start():
    assert [i for i in range(41) if Step(i, 20).ends_epoch] == [20, 40]


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        (every("1ep").schedule, [10, 20, 30]),
        (every("1ep", also_at_start=True).schedule, [0, 10, 20, 30]),
        (every("7it").schedule, [7, 14, 21, 28, 35]),
        (every("1ep5it").schedule, [15, 30]),
        (at("0it").schedule, [0]),
        (at("0it,5it,1ep, 2ep3it").schedule, [0, 5, 10, 23]),
    ],
)
def test_schedules_are_due_when_they_say(schedule, due):
    assert [i for i in range(36) if schedule.is_due(Step(i, 10))] == due


def test_a_scheduled_callback_carries_its_schedule_and_calls_through():
    seen = []
    scheduled = every("2ep")(seen.append)
    scheduled("moment")
    assert seen == ["moment"]
    assert scheduled.schedule == Every(Length(2))
    assert at("3it")(seen.append).schedule == At((Length(0, 3),))


def test_every_nothing_is_refused():
    with pytest.raises(ConfigError) as error:
        every("0it")
    assert str(error.value) == "every('0it'): the length must be at least '1it'; for the start alone use at('0it')"
