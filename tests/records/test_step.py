"""Steps and schedules against plain arithmetic."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepprobe.errors import ConfigError
from deepprobe.records.step import At, Every, Length, LogSpaced, Scheduled, Step, at, every, parse_schedule


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


def due_in(text, *, until=36, per_epoch=10, **options):
    schedule = parse_schedule(text, **options)
    return [i for i in range(until) if schedule.is_due(Step(i, per_epoch))]


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("1ep", [10, 20, 30]),
        ("7it", [7, 14, 21, 28, 35]),
        ("1ep5it", [15, 30]),
        ("1ep +start", [0, 10, 20, 30]),
        ("7it+start", [0, 7, 14, 21, 28, 35]),
        (" 2ep ", [20]),
        ("at 0,1,3ep", [0, 10, 30]),
        ("at 0, 1 ,3it", [0, 1, 3]),
        ("at 3ep", [30]),
        ("at 0it,5it,1ep", [0, 5, 10]),
        ("at 2,5it,1,2ep", [2, 5, 10, 20]),
        ("at 1ep5it,2ep", [15, 20]),
        ("at 1ep +start", [0, 10]),
        ("at 0,1ep +start", [0, 10]),
        ("log 1it..2ep x2", [1, 20]),
        ("log 1it..32it x6", [1, 2, 4, 8, 16, 32]),
        ("log 1it..32it x6 +start", [0, 1, 2, 4, 8, 16, 32]),
        ("log 3it..3it", [3]),
        ("log 2ep..5it x2", [5, 20]),
    ],
)
def test_a_schedule_in_words_is_due_when_it_says(text, due):
    assert due_in(text) == due


@given(st.integers(1, 30), st.integers(1, 300), st.integers(2, 20))
def test_log_spaced_points_are_the_rounded_powers_of_one_ratio(first, last, count):
    expected = {round(first * math.exp(math.log(last / first) * i / (count - 1))) for i in range(count)}
    found = set(due_in(f"log {first}it..{last}it x{count}", until=301))
    assert {first, last} <= found
    assert len(found) <= count
    # a point half-way between two iterations may go to either
    assert all(min(abs(f - e) for e in expected) <= 1 for f in found)
    assert len(found ^ expected) <= 2


def test_log_spaced_points_are_ten_unless_said():
    assert len(due_in("log 1it..1000ep", until=10_001)) == 10
    assert parse_schedule("log 1it..10ep") == parse_schedule("log 1it..10ep x10")


def test_the_start_is_added_to_what_repeats_and_not_to_points_that_were_named():
    assert due_in("1ep", also_at_start=True) == [0, 10, 20, 30]
    assert due_in("log 1it..2ep x2", also_at_start=True) == [0, 1, 20]
    assert due_in("at 1ep", also_at_start=True) == [10]


def test_schedules_are_values():
    assert parse_schedule("1ep") == every("1ep").schedule == Every(Length(1))
    assert parse_schedule("at 0,5it") == at("0it,5it").schedule == At((Length(), Length(0, 5)))
    assert parse_schedule("log 1it..2ep x4 +start") == LogSpaced(Length(0, 1), Length(2), 4, also_at_start=True)
    assert len({parse_schedule(t) for t in ("1ep", "1ep +start", "at 1ep", "log 1it..1ep", "log 1it..1ep x10")}) == 4


@pytest.mark.parametrize(
    "text",
    [
        "", "often", "0it", "0ep +start", "1", "at", "at ", "at 1", "at 1ep,2", "at 1ep,,2ep", "at -1ep", "at 1.5ep",
        "at 1,2ep3it", "log 1it", "log 0it..1ep", "log 1it..0ep", "log 1it..1ep x1", "log 1it..1ep x", "log 1..10ep",
        "log 1it-1ep", "+start", "every 1ep", "at1ep", "1ep start", "at ٣ep", None, 3,
    ],
)  # fmt: skip
def test_what_is_no_schedule_is_refused_with_the_forms_that_are_read(text):
    with pytest.raises(ConfigError) as error:
        parse_schedule(text)
    assert str(error.value) == (
        f"{text!r} is no schedule; write it as '1ep', '500it', 'at 0,1,2,5,10ep', 'at 0it,5it,1ep' or "
        "'log 1it..10ep x8', with ' +start' at the end for the untrained network too"
    )


def test_a_scheduled_callback_shows_what_else_the_callback_has():
    class AroundOnly:
        def around_update(self, context):
            return context

    scheduled = at("3it")(AroundOnly())
    assert scheduled.around_update("moment") == "moment"
    assert not hasattr(scheduled, "around_training")
    assert scheduled("moment") is None  # nothing to call, and no error
    assert copy.deepcopy(every("1ep")(print)) == pickle.loads(pickle.dumps(every("1ep")(print)))
    assert isinstance(copy.copy(scheduled), Scheduled)
