"""The step's bookkeeping, without a model."""

from hypothesis import given
from hypothesis import strategies as st

from inference.scheduler import Piece, Scheduler, choose_slot, common_prefix
from inference.sequence import Sequence, Slot


def sequence(id_: int, tokens: list[int], *, arrived: float = 0.0) -> Sequence:
    return Sequence(id_, list(tokens), len(tokens), len(tokens) + 8, text=None, sampler=None, arrived=arrived)


def compute(scheduler: Scheduler, pieces: list[Piece]) -> None:
    for piece in pieces:
        piece.sequence.done += piece.count
        if piece.last:
            piece.sequence.tokens.append(99)


def test_decoding_sequences_come_before_prefill_and_prefill_is_bounded():
    scheduler = Scheduler(slots=4, batch=512)
    scheduler.submit(sequence(1, [1] * 10))
    scheduler.admit()
    compute(scheduler, scheduler.plan(prefill=64, now=0))
    scheduler.submit(sequence(2, [2] * 400))
    scheduler.admit()
    pieces = scheduler.plan(prefill=64, now=0)
    assert [(p.sequence.id, p.count, p.last) for p in pieces] == [(1, 1, True), (2, 64, False)]


def test_alone_a_prompt_takes_the_whole_batch():
    scheduler = Scheduler(slots=2, batch=512)
    scheduler.submit(sequence(1, [1] * 900))
    scheduler.admit()
    assert [p.count for p in scheduler.plan(prefill=64, now=0)] == [512]


def test_a_short_prompt_does_not_wait_behind_a_long_one_but_a_long_one_ages():
    scheduler = Scheduler(slots=3, batch=512)
    for id_, length in ((1, 2000), (2, 100)):
        scheduler.submit(sequence(id_, [id_] * length))
    scheduler.admit()
    assert [(p.sequence.id, p.count) for p in scheduler.plan(prefill=64, now=0)] == [(1, 384), (2, 100)]
    long = scheduler.running[0]
    long.arrived = -60.0
    first = scheduler.plan(prefill=64, now=0)[0]
    assert (first.sequence.id, first.count) == (1, 512)


def test_a_conversation_finds_its_own_slot_and_computes_only_what_is_new():
    scheduler = Scheduler(slots=2, batch=512)
    first, other = sequence(1, [1, 2, 3, 4]), sequence(2, [7, 8, 9])
    scheduler.submit(first)
    scheduler.submit(other)
    scheduler.admit()
    for running in (first, other):
        running.done = len(running.tokens)
        scheduler.release(running, now=1.0)
    again = sequence(3, [7, 8, 9, 10, 11])
    scheduler.submit(again)
    scheduler.admit()
    assert again.slot is scheduler.slots[1]
    assert (again.done, again.cached, again.pending) == (3, 3, 2)


def test_the_last_token_is_always_computed_since_the_cache_holds_no_logits():
    scheduler = Scheduler(slots=1, batch=512)
    scheduler.slots[0].held = [1, 2, 3]
    same = sequence(1, [1, 2, 3])
    scheduler.submit(same)
    scheduler.admit()
    assert same.done == 2


def test_a_shared_system_prompt_does_not_cost_another_conversation_its_cache():
    slots = [Slot(0, held=[1, 1, 1, 5, 5, 5, 5, 5]), Slot(1, held=[])]
    assert choose_slot(slots, [1, 1, 1, 9, 9]) is slots[1]


def test_without_an_empty_slot_the_longest_unused_one_is_taken():
    slots = [Slot(0, held=[1] * 9, used=5.0), Slot(1, held=[2] * 9, used=3.0)]
    assert choose_slot(slots, [7]) is slots[1]


def test_more_sequences_than_slots_wait_their_turn():
    scheduler = Scheduler(slots=1, batch=512)
    for id_ in (1, 2):
        scheduler.submit(sequence(id_, [id_]))
    assert [s.id for s in scheduler.admit()] == [1]
    assert scheduler.admit() == []
    scheduler.release(scheduler.running[0], now=0.0)
    assert [s.id for s in scheduler.admit()] == [2]


@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), max_size=12))
def test_common_prefix(left: list[int], right: list[int]):
    size = common_prefix(left, right)
    assert left[:size] == right[:size]
    assert size == min(len(left), len(right)) or left[size] != right[size]


@given(st.lists(st.integers(1, 700), min_size=1, max_size=12), st.integers(1, 4), st.integers(32, 512))
def test_every_sequence_gets_everything_computed_once_and_no_batch_is_too_large(
    lengths: list[int], slots: int, prefill: int
):
    scheduler = Scheduler(slots=slots, batch=512)
    every = [sequence(i, [i] * length) for i, length in enumerate(lengths)]
    for one in every:
        scheduler.submit(one)
    finished: list[Sequence] = []
    for now in range(1000):
        scheduler.admit()
        pieces = scheduler.plan(prefill=prefill, now=float(now))
        assert sum(p.count for p in pieces) <= 512
        assert [p.sequence.slot.index for p in pieces] == sorted(p.sequence.slot.index for p in pieces)
        assert {s.id for s in scheduler.running if s.decoding} <= {p.sequence.id for p in pieces}
        compute(scheduler, pieces)
        for one in [s for s in scheduler.running if len(s.tokens) >= s.limit]:
            scheduler.release(one, now=float(now))
            finished.append(one)
        if len(finished) == len(every):
            break
    assert len(finished) == len(every)
