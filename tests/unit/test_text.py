"""Tokens to text: the result must not depend on how the bytes were cut."""

from hypothesis import given
from hypothesis import strategies as st

from inference.text import StopMatcher, TextStream, held_back


def feed_all(stream: TextStream, pieces: list[bytes]) -> tuple[str, str]:
    reasoning, text = "", ""
    for piece in pieces:
        more_reasoning, more = stream.feed(piece)
        reasoning, text = reasoning + more_reasoning, text + more
        if stream.stopped:
            break
    more_reasoning, more = stream.flush()
    return reasoning + more_reasoning, text + more


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


def thinker(*, thinking: bool = False, stops: tuple[str, ...] = ()) -> TextStream:
    return TextStream(stops=stops, thinks=True, thinking=thinking)


sizes = st.lists(st.integers(1, 5), max_size=40)


def test_a_character_that_is_cut_in_two_comes_out_whole():
    assert feed_all(TextStream(stops=(), thinks=False, thinking=False), [b"\xe4\xbd", b"\xa0\xe5", b"\xa5\xbd"]) == (
        "",
        "你好",
    )


@given(st.text(), sizes)
def test_plain_text_passes_unchanged(text: str, sizes: list[int]):
    stream = TextStream(stops=(), thinks=False, thinking=False)
    assert feed_all(stream, cut(text.encode(), sizes)) == ("", text)


@given(st.text(alphabet="ab</think> \n你", max_size=20), st.text(alphabet="xy<z", max_size=20), sizes)
def test_thinking_is_split_from_the_answer_however_it_is_cut(thought: str, answer: str, sizes: list[int]):
    raw = f"<think>\n{thought}</think>\n\n{answer}".encode()
    before, _, after = f"{thought}</think>{answer}".partition("</think>")
    expected = (before.strip(), f"{after}".lstrip() if "</think>" in thought else answer.lstrip())
    if "</think>" in thought:  # the first closing tag counts
        after = thought.partition("</think>")[2] + "</think>\n\n" + answer
        expected = (before.strip(), after.lstrip())
    assert feed_all(thinker(), cut(raw, sizes)) == expected


def test_thinking_that_the_prompt_opened_needs_no_opening_tag():
    assert feed_all(thinker(thinking=True), [b"hm", b"m</th", b"ink>\n\nyes"]) == ("hmm", "yes")


def test_thinking_that_never_closes_is_all_reasoning():
    assert feed_all(thinker(), [b"<think>", b"on and on "]) == ("on and on", "")


def test_a_tag_in_the_middle_of_an_answer_is_text():
    assert feed_all(thinker(), [b"The tag <think> opens it."]) == ("", "The tag <think> opens it.")


def test_a_model_that_does_not_think_may_say_anything():
    stream = TextStream(stops=(), thinks=False, thinking=False)
    assert feed_all(stream, [b"<think>x</think>"]) == ("", "<think>x</think>")


@given(
    st.text(alphabet="abc", max_size=30),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3),
    sizes,
)
def test_an_answer_ends_before_the_first_stop_string(text: str, stops: list[str], sizes: list[int]):
    found = [stop for stop in stops if stop in text]
    # the earliest end decides: a stop string counts as soon as it is complete
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    out = feed_all(TextStream(stops=tuple(stops), thinks=False, thinking=False), [c.encode() for c in text])[1]
    if not found:
        assert out == text
        return
    seen = text[: min(ends)]
    starts = [seen.find(stop) for stop in stops if stop in seen]
    assert out == seen[: min(starts)]


def test_a_stop_string_inside_the_thinking_does_not_end_the_answer():
    stream = thinker(stops=("stop",))
    assert feed_all(stream, [b"<think>stop here</think>go on, stop, end"]) == ("stop here", "go on, ")


@given(st.text(alphabet="ab", max_size=10))
def test_what_is_held_back_may_begin_a_marker_and_is_as_long_as_possible(text: str):
    markers = ("aab", "bab")
    size = held_back(text, markers)
    starts = [n for n in (1, 2) if n <= len(text) and any(m[:-1].startswith(text[-n:]) for m in markers)]
    assert size == max(starts, default=0)


def test_after_a_stop_nothing_more_comes():
    matcher = StopMatcher(("X",))
    assert matcher.feed("abX") == "ab"
    assert matcher.hit
    assert matcher.feed("more") == matcher.flush() == ""
