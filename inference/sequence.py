"""One answer in the making, and the KV streams that answers grow in."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from inference.protocol import CacheTier, Request, Usage
from inference.sampling import Choice
from inference.text import TextStream

if TYPE_CHECKING:
    from inference.speculation import Drafting

Tokens = npt.NDArray[np.int32]


def as_tokens(ids: list[int]) -> Tokens:
    return np.array(ids, np.int32)


def common_prefix(left: Tokens, right: Tokens) -> int:
    """How many leading tokens two arrays share."""
    size = min(len(left), len(right))
    if not size or left[0] != right[0]:
        return 0
    differs = left[:size] != right[:size]
    first = int(differs.argmax())
    return first if differs[first] else size


@dataclass(slots=True, eq=False)
class Sequence:
    """`tokens` is the prompt and then everything generated; `done` of them are in the KV cache.

    A background sequence says nothing: it computes what a conversation's next prompt will begin with.
    """

    id: int
    tokens: list[int]
    begun: Tokens  # what `tokens` was when it was submitted
    prompt: int  # how many of the tokens are the prompt's
    opening: int  # and how many of these tell its conversation from others: those up to its first answer
    limit: int  # it ends when `tokens` is this long
    text: TextStream
    choice: Choice
    arrived: float  # monotonic seconds
    request: Request
    drafting: "Drafting"
    background: bool = False
    after: Tokens = field(
        default_factory=lambda: np.array([], np.int32)
    )  # what the stream of a background sequence's conversation holds
    dropped: int = 0  # messages left out of the prompt
    said: list[str] = field(default_factory=list)
    stream: "Stream | None" = None
    done: int = 0
    cached: int = 0
    tier: CacheTier = "none"
    admitted: float = 0.0  # monotonic seconds

    @property
    def pending(self) -> int:
        """Tokens still to be computed."""
        return len(self.tokens) - self.done

    @property
    def prefill(self) -> int:
        """Tokens to compute before one can be sampled: the newest one is a row of the decoding batch."""
        return self.pending if self.background else self.pending - 1

    @property
    def decoding(self) -> bool:
        return self.pending == 1 and not self.background

    @property
    def usage(self) -> Usage:
        completion, queued = len(self.tokens) - self.prompt, self.admitted - self.arrived
        return Usage(self.prompt, self.cached, completion, self.dropped, self.tier, queued)


@dataclass(slots=True, eq=False)
class Stream:
    """One llama.cpp sequence id. Those below the number of slots compute; those above only keep conversations."""

    index: int
    held: Tokens = field(default_factory=lambda: as_tokens([]))  # what it holds while no sequence grows in it
    sequence: Sequence | None = None
    junk: int = 0  # cells after its tokens that only filled gaps in batches
    used: float = 0.0  # when it was last let go, monotonic seconds
    stored: bool = False  # a snapshot of what it holds is kept elsewhere

    @property
    def busy(self) -> bool:
        """It can't be given away; a background sequence can be interrupted."""
        return self.sequence is not None and not self.sequence.background

    @property
    def contents(self) -> Tokens:
        """What is certainly in its cells."""
        return self.sequence.begun[: self.sequence.done] if self.sequence else self.held

    @property
    def length(self) -> int:
        """Cells in use, without junk."""
        return self.sequence.done if self.sequence else len(self.held)
