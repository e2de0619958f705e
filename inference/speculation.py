"""Prompt lookup: guessing a sequence's next tokens from what followed the same words before, in its own text.

Quoting, code and summaries repeat themselves, so a guess costs a few rows of a batch that has room for them and
saves whole steps. What is drawn never changes: a drafted token stands only where the draw at its position, with
that position's own chance, gives the very same token.
"""

from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field, replace

from inference.scheduler import Row
from inference.sequence import Sequence

NGRAM = 3  # tokens that must repeat before a guess is made
TRIAL = 2  # tokens guessed while nothing is known about a sequence
REST = 24  # tokens without a guess after guessing did not pay


@dataclass(slots=True)
class Drafting:
    """What one sequence's guesses are worth. Pure: fed with tokens and outcomes."""

    seen: dict[tuple[int, ...], int] = field(default_factory=dict)  # n-gram -> where it last ended
    indexed: int = 0
    size: int = TRIAL
    rests_until: int = 0  # number of tokens

    def propose(self, tokens: list[int], most: int) -> tuple[int, ...]:
        """Up to `most` tokens that followed the last time that these words were said."""
        at = self._look_up(tokens)
        if not at or len(tokens) < self.rests_until:
            return ()
        return tuple(tokens[at : at + min(self.size, most)])

    def note(self, drafted: int, right: int, length: int) -> None:
        """How many of the drafted tokens were right, in a sequence of now `length` tokens."""
        if right == drafted:
            self.size = 2 * self.size
        elif 2 * right >= drafted:
            self.size = max(TRIAL, right)
        else:
            self.size, self.rests_until = TRIAL, length + REST

    def _look_up(self, tokens: list[int]) -> int | None:
        """Where the text went on the last time; the n-gram at the very end is not indexed before it is asked for."""
        for end in range(max(self.indexed, NGRAM), len(tokens)):
            self.seen[tuple(tokens[end - NGRAM : end])] = end
        self.indexed = max(self.indexed, len(tokens))
        return self.seen.get(tuple(tokens[-NGRAM:]))


def drafted(rows: tuple[Row, ...], drafters: int, most: int) -> tuple[Row, ...]:
    """The rows with drafts of one length, which keeps them one pass; as they are where guessing does not pay."""
    speakers = [row.sequence for row in rows if row.sequence and row.sequence.decoding]
    if len(speakers) != len(rows) or len(rows) > drafters:
        return rows
    most = (1 + most) // len(rows) - 1
    drafts = [_draft(sequence, most) for sequence in speakers]
    size = min(map(len, drafts))
    return tuple(replace(row, draft=draft[:size]) for row, draft in zip(rows, drafts, strict=True)) if size else rows


def _draft(sequence: Sequence, most: int) -> tuple[int, ...]:
    room = sequence.limit - len(sequence.tokens) - 1
    return sequence.drafting.propose(sequence.tokens, min(most, room)) if min(most, room) > 0 else ()


def agreed(draft: Tokens[int], drawn: Tokens[int]) -> int:
    """How many of the drafted tokens are what was drawn in their places."""
    for index, (guess, token) in enumerate(zip(draft, drawn, strict=False)):
        if guess != token:
            return index
    return min(len(draft), len(drawn))
