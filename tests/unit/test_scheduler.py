"""The step's bookkeeping, without a model."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.scheduler import BLOCK, GPU_SHAPE, GRAIN, Scheduler, Shape, StepPlan, slice_of, whole_range
from inference.sequence import Sequence
from tests.unit.sequences import sequence

FILLING = Shape(fill=True)


def admit(scheduler: Scheduler, now: float = 0.0) -> Iterator[Sequence]:
    while one := scheduler.next():
        stream = next(stream for stream in scheduler.slots if not stream.busy)
        scheduler.admit(one, stream, 0, now)
        yield one


def start(scheduler: Scheduler, *sequences: Sequence) -> None:
    for one in sequences:
        scheduler.submit(one)
    list(admit(scheduler))


def compute(plan: StepPlan) -> None:
    """What the loop does with a plan: prefill, then a token for every sequence whose prompt is complete."""
    for pieces in plan.passes:
        for piece in pieces:
            piece.sequence.done += piece.count
    for row in plan.rows:
        if row.sequence and row.sequence.pending:
            speaks = row.sequence.decoding
            row.sequence.done += 1
            if speaks:
                row.sequence.tokens.append(99)


def decode_first(scheduler: Scheduler, one: Sequence) -> None:
    start(scheduler, one)
    compute(scheduler.plan(budget=512, now=0))
    assert one.decoding


def test_a_prompt_and_its_first_token_are_one_step():
    scheduler = Scheduler(slots=1)
    one = sequence(1, [1] * 100)
    start(scheduler, one)
    plan = scheduler.plan(budget=100, now=0)
    assert [[p.count for p in pieces] for pieces in plan.passes] == [[99]]
    assert [row.sequence for row in plan.rows] == [one]


def test_prefill_beside_decoding_is_bounded_and_everybody_who_decodes_has_a_row():
    scheduler = Scheduler(slots=4)
    first, long = sequence(1, [1] * 10), sequence(2, [2] * 400)
    decode_first(scheduler, first)
    start(scheduler, long)
    plan = scheduler.plan(budget=64, now=0)
    assert [[(p.sequence.id, p.count) for p in pieces] for pieces in plan.passes] == [[(2, 64)]]
    assert [row.sequence.id for row in plan.rows] == [1]


def test_a_pass_has_no_more_than_the_batch_and_a_step_no_slice_after_it():
    scheduler = Scheduler(slots=2)
    start(scheduler, sequence(1, [1] * 900))
    plan = scheduler.plan(budget=800, now=0)
    assert [[p.count for p in pieces] for pieces in plan.passes] == [[512]]
    assert plan.rows == ()


def test_a_short_prompt_does_not_wait_behind_a_long_one_but_a_long_one_ages():
    scheduler = Scheduler(slots=3)
    long, short = sequence(1, [1] * 2000), sequence(2, [2] * 100)
    start(scheduler, long, short)
    assert scheduler.plan(budget=64, now=0).passes[0][0].sequence is short
    long.arrived = -60.0
    assert scheduler.plan(budget=64, now=0).passes[0][0].sequence is long


def test_neighbours_with_as_much_to_compute_share_a_pass():
    scheduler = Scheduler(slots=4)
    start(scheduler, *(sequence(i, [i] * 41) for i in range(4)))
    (pieces,) = scheduler.plan(budget=160, now=0).passes
    assert [(p.sequence.stream.index, p.count) for p in pieces] == [(0, 40), (1, 40), (2, 40), (3, 40)]


def test_prompts_of_nearly_one_length_share_a_pass_and_their_ends_join_the_rows():
    scheduler = Scheduler(slots=4, shape=GPU_SHAPE)
    lengths = (529, 527, 530, 528)
    start(scheduler, *(sequence(i, [i] * length) for i, length in enumerate(lengths)))
    plan = scheduler.plan(budget=2400, now=0)
    assert [[p.count for p in pieces] for pieces in plan.passes] == [[526] * 4]
    assert len(plan.rows) == 4
    compute(plan)
    assert [s.prefill for s in scheduler.running] == [1, 0, 2, 0]
    for _ in range(2):
        plan = scheduler.plan(budget=2400, now=0)
        assert plan.passes == ()
        compute(plan)
    assert all(s.decoding for s in scheduler.running)


def test_a_crowd_is_let_in_in_several_passes_a_step():
    scheduler = Scheduler(slots=9, shape=GPU_SHAPE)
    start(scheduler, *(sequence(i, [i] * 501) for i in range(9)))
    plan = scheduler.plan(budget=4500, now=0)
    assert [len(pieces) for pieces in plan.passes] == [5, 4]


def test_what_nobody_waits_for_is_computed_only_when_nobody_is_answered():
    scheduler = Scheduler(slots=2)
    later = sequence(-1, [1] * 100, background=True)
    scheduler.admit(later, scheduler.slots[1], 0, 0.0)
    decode_first(scheduler, one := sequence(1, [1] * 10))
    assert scheduler.plan(budget=512, now=0).passes == ()
    scheduler.release(one, 0.0)
    plan = scheduler.plan(budget=512, now=0)
    assert [[(p.sequence.id, p.count) for p in pieces] for pieces in plan.passes] == [[(-1, 100)]]
    assert plan.rows == ()


def test_gaps_are_filled_where_that_pays():
    for shape, expected in ((Shape(), [0, 3]), (FILLING, [0, 1, 2, 3])):
        scheduler = Scheduler(slots=6, shape=shape)
        every = [sequence(i, [1] * 4) for i in range(4)]
        start(scheduler, *every)
        compute(scheduler.plan(budget=512, now=0))
        for one in every[1:3]:
            scheduler.release(one, 0.0)
        assert [row.stream.index for row in scheduler.plan(budget=64, now=0).rows] == expected


def test_a_prompt_in_a_gap_gets_a_token_computed_for_nothing():
    scheduler = Scheduler(slots=3, shape=FILLING)
    outer = [sequence(1, [1] * 4), sequence(2, [2] * 2000), sequence(3, [3] * 4)]
    start(scheduler, *outer)
    for _ in range(3):
        compute(scheduler.plan(budget=512, now=0))
    assert outer[0].decoding
    assert outer[2].decoding
    rows = scheduler.plan(budget=64, now=0).rows
    assert [row.sequence.id for row in rows] == [1, 2, 3]


@given(st.integers(0, 63), st.integers(0, 63))
def test_a_range_covers_its_ends_and_large_ones_keep_their_shape(a: int, b: int):
    first, last = min(a, b), max(a, b)
    indices = whole_range(first, last, 64)
    assert indices == list(range(indices[0], indices[-1] + 1))
    assert indices[0] <= first
    assert last <= indices[-1] <= 63
    if last - first >= BLOCK:
        assert len(indices) % BLOCK == 0
    else:
        assert len(indices) == last - first + 1


@given(st.integers(1, 5000), st.integers(GRAIN, 512))
def test_a_slice_is_all_that_remains_or_a_multiple_of_the_grain(prefill: int, budget: int):
    count = slice_of(prefill, budget, 512)
    assert 0 < count <= min(prefill, 512)
    assert count == prefill or count % GRAIN == 0


def test_clients_take_turns_where_many_wait():
    scheduler = Scheduler(slots=2)
    for i in range(4):
        scheduler.submit(sequence(i, [1], arrived=float(i), client="a"))
    scheduler.submit(sequence(9, [1], arrived=9.0, client="b"))
    assert [one.id for one in admit(scheduler)] == [0, 9]


def test_a_client_with_several_answers_makes_room_for_one_that_waits_too_long():
    scheduler = Scheduler(slots=2)
    greedy = [sequence(i, [1, 2, 3], client="a", arrived=float(i)) for i in range(2)]
    start(scheduler, *greedy)
    compute(scheduler.plan(budget=64, now=0))
    scheduler.submit(sequence(9, [1], arrived=5.0, client="b"))
    assert scheduler.preempt(6.0) is None
    victim = scheduler.preempt(8.0)
    assert victim is greedy[1]
    assert list(victim.begun) == [1, 2, 3, 99]
    assert [one.id for one in admit(scheduler, 8.0)] == [9]
    assert scheduler.waiting == [victim]
    assert scheduler.preempt(20.0) is None  # nobody else waits for a first one


def test_an_answer_that_was_preempted_says_how_much_of_its_prompt_was_cached_at_first():
    scheduler = Scheduler(slots=1)
    one = sequence(1, [1, 2, 3, 4])
    scheduler.submit(one)
    scheduler.admit(one, scheduler.slots[0], 2, 1.0)
    scheduler.release(one, 2.0)
    scheduler.waiting.append(one)
    scheduler.admit(one, scheduler.slots[0], 4, 3.0)
    assert (one.cached, one.admitted, one.done) == (2, 1.0, 3)


@pytest.mark.parametrize("shape", [Shape(), FILLING, GPU_SHAPE])
@given(st.lists(st.integers(1, 700), min_size=1, max_size=12), st.integers(1, 4), st.integers(32, 512))
def test_every_sequence_gets_everything_computed_once_and_no_pass_is_too_large(
    shape: Shape, lengths: list[int], slots: int, budget: int
):
    scheduler = Scheduler(slots=slots, shape=shape)
    every = [sequence(i, [i] * length) for i, length in enumerate(lengths)]
    for one in every:
        scheduler.submit(one)
    finished: list[Sequence] = []
    for now in range(2000):
        list(admit(scheduler, float(now)))
        speaking = {s.id for s in scheduler.running if s.decoding}
        plan = scheduler.plan(budget=budget, now=float(now))
        for pieces in plan.passes:
            assert sum(p.count for p in pieces) <= shape.most
            indices = [p.sequence.stream.index for p in pieces]
            assert indices == list(range(indices[0], indices[0] + len(indices)))
            assert len({p.count for p in pieces}) == 1
        assert [row.stream.index for row in plan.rows] == sorted({row.stream.index for row in plan.rows})
        assert speaking <= {row.sequence.id for row in plan.rows if row.sequence}
        compute(plan)
        for one in [s for s in scheduler.running if len(s.tokens) >= s.limit]:
            assert one.done == len(one.tokens) - 1
            scheduler.release(one, float(now))
            finished.append(one)
        if len(finished) == len(every):
            break
    assert len(finished) == len(every)
