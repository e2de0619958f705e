"""Sequences for tests of the pure parts."""

from inference.protocol import ChatMessage, Request, Sampling
from inference.sampling import choose
from inference.sequence import Sequence, as_tokens
from inference.speculation import Drafting
from inference.text import TextStream

GREEDY = choose(Sampling(temperature=0, seed=1), Sampling())


def sequence(id_: int, tokens: list[int], *, arrived: float = 0.0, client: str = "", more: int = 8,
             background: bool = False, opening: int | None = None) -> Sequence:  # fmt: skip
    return Sequence(
        id=id_,
        tokens=list(tokens),
        begun=as_tokens(tokens),
        prompt=len(tokens),
        opening=len(tokens) if opening is None else opening,
        limit=len(tokens) + more,
        text=TextStream(stops=(), thinks=False, thinking=False),
        choice=GREEDY,
        arrived=arrived,
        request=Request((ChatMessage("user", str(id_)),), client=client),
        drafting=Drafting(),
        background=background,
    )
