"""What a language has to say about each kind of notice. `wording` fills it in."""

from collections.abc import Mapping
from dataclasses import dataclass

Line = tuple[str, ...]  # wordings of one line, the fullest first


@dataclass(frozen=True, slots=True)
class Words:
    """One language. The figures between {} are those of `wording`.

    `units`: day, hour, minute, second. `gpu`: how an instance is called, at a sentence's beginning and within one;
    `nameless`: the same where it has no name. `other_day`, `other_year`: times that are not today's, for strftime.
    `links`: by the choices of `bot.money.links`.
    """

    titles: Mapping[str, Line]
    lines: Mapping[str, tuple[Line, ...]]
    units: tuple[str, str, str, str]
    compute_hours: str
    joint: str
    gpu: str
    nameless: tuple[str, str]
    other_day: str
    other_year: str
    budgets: Mapping[str, str]
    links: Mapping[str, str]
