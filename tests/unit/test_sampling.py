"""The draw: exact candidates, the right distribution, the same token for the same seed and place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.protocol import Sampling
from inference.sampling import NARROW, WIDE, Choice, choose, draw, likeliest, penalised, uniforms
from inference.sequence import as_tokens


def choice(**wishes: float) -> Choice:
    return choose(
        Sampling(**{"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": 1, **wishes}), Sampling()
    )


@given(st.integers(1, 3), st.sampled_from([40, 1000, 4097, 20_000]), st.sampled_from([1, 20, NARROW, WIDE]),
       st.integers(0, 2**31), st.booleans())  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_likeliest_are_exactly_the_largest(rows: int, size: int, count: int, seed: int, ties: bool):
    logits = np.random.default_rng(seed).normal(size=(rows, size)).astype(np.float32)
    if ties:
        logits = np.round(logits)
    values, ids = likeliest(logits, count)
    count = min(count, size)
    assert np.array_equal(np.sort(values, axis=1), np.sort(logits, axis=1)[:, -count:])
    assert np.array_equal(np.take_along_axis(logits, ids.astype(np.int64), axis=1), values)
    assert all(len(set(row)) == count for row in ids.tolist())


def test_greedy_takes_the_lowest_of_equal_tokens():
    logits = np.array([[1.0, 7.0, 7.0, 2.0]], np.float32)
    ids = np.array([[3, 9, 5, 1]], np.int32)
    assert draw(logits, ids, [choice(temperature=0)], np.array([0.9])) == [5]


def many(logits: list[float], wishes: Choice, count: int = 40_000) -> np.ndarray:
    rows = np.tile(np.array(logits, np.float32), (count, 1))
    ids = np.tile(np.arange(len(logits), dtype=np.int32), (count, 1))
    chances = uniforms([wishes.seed] * count, range(count))
    drawn = draw(rows, ids, [wishes] * count, chances)
    return np.bincount(drawn, minlength=len(logits)) / count


def softmax(logits: list[float], heat: float = 1.0) -> np.ndarray:
    weights = np.exp(np.array(logits) / heat)
    return weights / weights.sum()


LOGITS = [2.0, 1.5, 0.0, -1.0, -2.0]


@pytest.mark.parametrize("heat", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_the_softmax_says(heat: float):
    assert many(LOGITS, choice(temperature=heat)) == pytest.approx(softmax(LOGITS, heat), abs=0.01)


def test_top_k_top_p_and_min_p_cut_the_tail_and_leave_the_rest_in_proportion():
    first_two = softmax(LOGITS)[:2] / softmax(LOGITS)[:2].sum()
    for wishes in (choice(top_k=2), choice(top_p=0.8), choice(min_p=0.5)):
        assert many(LOGITS, wishes)[:2] == pytest.approx(first_two, abs=0.01)
        assert many(LOGITS, wishes)[2:].sum() == 0


def test_rows_of_one_batch_keep_their_own_parameters():
    rows, ids = np.tile(np.array(LOGITS, np.float32), (2, 1)), np.tile(np.arange(5, dtype=np.int32), (2, 1))
    for chance in np.linspace(0, 0.999, 50):
        greedy, hot = draw(rows, ids, [choice(temperature=0), choice(temperature=50)], np.array([chance, chance]))
        assert greedy == 0
        assert hot == int(chance * 5) or abs(chance * 5 % 1 - 0.5) > 0.3  # nearly uniform


def test_the_same_seed_and_place_draw_the_same_whoever_is_beside():
    alone = uniforms([7], [123])
    crowd = uniforms([1, 7, 9], [5, 123, 8])
    assert alone[0] == crowd[1]


def test_chances_are_spread_evenly_over_places_and_over_seeds():
    for chances in (uniforms([5] * 20_000, range(20_000)), uniforms(range(20_000), [5] * 20_000)):
        counts, _ = np.histogram(chances, bins=20, range=(0, 1))
        assert abs(counts - 1000).max() < 150
        assert abs(np.corrcoef(chances[:-1], chances[1:])[0, 1]) < 0.03


def test_penalties_count_what_this_answer_said():
    logits, ids = np.zeros(3, np.float32), as_tokens([10, 11, 12])
    wishes = choice(presence_penalty=1.0, frequency_penalty=0.5)
    assert penalised(logits, ids, wishes, as_tokens([10, 10, 12, 99])).tolist() == [-2.0, 0.0, -1.5]
