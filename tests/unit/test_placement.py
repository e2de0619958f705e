"""Where a sequence computes, and from which cache."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.kvstore import Found
from inference.placement import Costs, place
from inference.sequence import Stream, as_tokens, common_prefix
from tests.unit.sequences import sequence

COSTS = Costs(prefill=1000.0, copy=0.005, host=1e9, disk=1e8)
MANY = 100


def streams(*held: list[int]) -> list[Stream]:
    return [Stream(i, held=as_tokens(tokens), used=float(i)) for i, tokens in enumerate(held)]


def test_a_conversation_goes_on_in_its_own_slot():
    every = streams([1] * MANY, [2] * MANY)
    chosen = place(sequence(1, [2] * MANY + [3], opening=9), every, 2, None, COSTS)
    assert (chosen.stream.index, chosen.source, chosen.shared, chosen.own) == (1, None, MANY, True)


def test_a_shared_system_prompt_is_copied_and_costs_nobody_a_cache():
    every = streams([1] * 50 + [2] * 80, [])
    chosen = place(sequence(1, [1] * 50 + [3] * 9), every, 2, None, COSTS)
    assert (chosen.stream.index, chosen.source, chosen.shared, chosen.own) == (1, every[0], 50, False)


def test_it_is_copied_from_a_conversation_that_is_being_answered_as_well():
    every = streams([], [])
    busy = sequence(1, [1] * 50 + [2] * 9)
    busy.done, busy.stream, every[0].sequence = 40, every[0], busy
    chosen = place(sequence(2, [1] * 50 + [3] * 9), every, 2, None, COSTS)
    assert (chosen.stream.index, chosen.source, chosen.shared) == (1, every[0], 40)


@pytest.mark.parametrize("compact", [False, True])
def test_a_long_system_prompt_makes_no_conversation_another_one_s_own(compact: bool):
    system = [1] * 400
    every = streams([*system, *[2] * 90], [])
    chosen = place(sequence(1, [*system, *[3] * 30]), every, 2, None, COSTS, compact=compact)
    assert (chosen.shared, chosen.own, chosen.home) == (400, False, False)


def crowded(busy: int, slots: int = 32) -> list[Stream]:
    """All hold conversations; so many from the fourth on, and the top one, are busy."""
    every = streams(*[[number] * MANY for number in range(slots)])
    for stream in (*every[4 : 4 + busy], every[-1]):
        stream.sequence = sequence(stream.index, [stream.index] * MANY)
        stream.sequence.stream, stream.sequence.done = stream, MANY
    return every


@pytest.mark.parametrize(("busy", "slot"), [(3, 0), (18, 25)])
def test_a_conversation_far_above_moves_down_unless_most_of_what_lies_below_computes_anyway(busy: int, slot: int):
    every = crowded(busy)
    chosen = place(sequence(1, [25] * MANY + [99], opening=9), every, len(every), None, COSTS, compact=True)
    assert (chosen.stream.index, chosen.shared, chosen.own) == (slot, MANY, True)


def test_of_the_lowest_slots_the_longest_unused_one_is_taken_where_many_compute():
    every = crowded(18)
    every[0].used = every[1].used = 50.0
    chosen = place(sequence(1, [99] * MANY), every, len(every), None, COSTS, compact=True)
    assert chosen.stream.index == 2


def test_copying_that_costs_more_than_computing_is_left_alone():
    every = streams([1] * 20 + [2] * 80, [])
    slow = Costs(prefill=1000.0, copy=1.0, host=1e9, disk=1e8)
    assert place(sequence(1, [1] * 20 + [3] * 9), every, 2, None, slow).source is None


def test_a_parked_conversation_comes_back_into_a_slot():
    every = streams([1] * MANY, [2] * MANY, [3] * MANY)
    chosen = place(sequence(1, [3] * MANY + [4], opening=9), every, 2, None, COSTS)
    assert (chosen.stream.index, chosen.source, chosen.own) == (0, every[2], True)


def test_without_an_empty_slot_the_longest_unused_one_is_taken():
    every = streams([1] * MANY, [2] * MANY)
    every[0].used = 5.0
    assert place(sequence(1, [7]), every, 2, None, COSTS).stream.index == 1


def test_a_snapshot_is_read_only_where_that_is_quicker_than_computing():
    every, tokens = streams([], []), [5] * 1000
    found = Found("key", shared=1000, length=1000, size=50_000_000, tier="disk")
    assert place(sequence(1, [*tokens, 6]), every, 2, found, COSTS).source is found  # 0.55 s against 1 s
    quick = Costs(prefill=14_000.0, copy=0.005, host=1e9, disk=1e8)  # as a large GPU
    assert place(sequence(1, [*tokens, 6]), every, 2, found, quick).source is None
    near = Found("key", shared=1000, length=1000, size=50_000_000, tier="host")
    assert place(sequence(1, [*tokens, 6]), every, 2, near, quick).source is near


@given(
    st.lists(st.lists(st.integers(0, 2), max_size=40), min_size=1, max_size=5),
    st.lists(st.integers(0, 2), min_size=1),
    st.integers(1, 5),
)
def test_what_a_placement_promises_is_really_there(held: list[list[int]], tokens: list[int], slots: int):
    every = streams(*held)
    slots = min(slots, len(every))
    one = sequence(1, tokens)
    chosen = place(one, every, slots, None, COSTS)
    assert chosen.stream.index < slots
    origin = chosen.source if isinstance(chosen.source, Stream) else chosen.stream
    assert chosen.shared <= common_prefix(origin.held, one.begun)


@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), max_size=12))
def test_common_prefix(left: list[int], right: list[int]):
    size = common_prefix(as_tokens(left), as_tokens(right))
    assert left[:size] == right[:size]
    assert size == min(len(left), len(right)) or left[size] != right[size]
