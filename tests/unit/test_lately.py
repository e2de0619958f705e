"""What was found lately is not asked for again; what changed shows after a moment."""

import asyncio

import pytest

from bot.web import lately
from bot.web.lately import Lately


class Looking:
    """Answers from a table, and counts."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers
        self.looks = 0

    async def at(self, name: str) -> str | None:
        self.looks += 1
        await asyncio.sleep(0)
        return self.answers.get(name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test sets."""
    at = [100.0]
    monkeypatch.setattr(lately.time, "monotonic", lambda: at[0])
    return at


async def test_it_looks_once_a_moment(clock: list[float]) -> None:
    looking, known = Looking(a="1"), Lately[str]()
    assert [await known.get("a", lambda: looking.at("a")) for _ in range(3)] == ["1"] * 3
    assert looking.looks == 1
    looking.answers["a"] = "2"
    clock[0] += lately.MOMENT
    assert await known.get("a", lambda: looking.at("a")) == "2"


async def test_what_is_not_there_is_looked_for_every_time(clock: list[float]) -> None:
    looking, known = Looking(), Lately[str]()
    assert await known.get("a", lambda: looking.at("a")) is None
    looking.answers["a"] = "1"
    assert await known.get("a", lambda: looking.at("a")) == "1"


async def test_what_is_gone_is_gone_after_a_moment(clock: list[float]) -> None:
    looking, known = Looking(a="1"), Lately[str]()
    await known.get("a", lambda: looking.at("a"))
    del looking.answers["a"]
    clock[0] += lately.MOMENT
    assert [await known.get("a", lambda: looking.at("a")) for _ in range(2)] == [None, None]
    assert looking.looks == 3


async def test_an_answer_is_as_old_as_its_question(clock: list[float]) -> None:
    """A key that is revoked while the database is slow does not live longer for it."""
    known = Lately[str]()

    async def slow() -> str:
        clock[0] += lately.MOMENT
        return "old"

    assert await known.get("a", slow) == "old"
    looking = Looking()
    assert await known.get("a", lambda: looking.at("a")) is None


async def test_a_look_that_fails_changes_nothing(clock: list[float]) -> None:
    looking, known = Looking(a="1"), Lately[str]()

    async def failing() -> str:
        raise OSError

    with pytest.raises(OSError):
        await known.get("a", failing)
    assert await known.get("a", lambda: looking.at("a")) == "1"


async def test_it_does_not_grow_for_ever(clock: list[float]) -> None:
    known = Lately[str]()

    async def something() -> str:
        return "x"

    for number in range(3 * lately.MOST):
        await known.get(number, something)
    assert len(known._found) <= lately.MOST
