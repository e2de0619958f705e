"""What happened in a run: what its users saw, what the fakes saw, what was broken when, and the tables at the end.

Times are seconds since 1970. Nothing here asks the product for its opinion but the rows of its tables.
"""

from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["wait", "stream", "callback", "telegram", "command"]


@dataclass(slots=True)
class Ask:
    """One message of a user. `name` is the sender's own id for it, `told_id` the service's; `hopeless`: it can't
    be answered, and must fail. `accepted_at`: when its sender first knew that it was accepted."""

    marker: str
    mode: Mode
    conversation: str
    source: str
    name: str
    sent_at: float
    hopeless: bool = False
    accepted_at: float | None = None
    told_id: str = ""

    @property
    def settled_at(self) -> float | None:
        """What is sent after this is certainly behind it. Telegram's updates are a queue."""
        return self.sent_at if self.mode in ("telegram", "command") else self.accepted_at


@dataclass(frozen=True, slots=True)
class Heard:
    """A reply that a client got in an answer, or `failed`: that there will be none."""

    marker: str
    at: float
    id: str
    text: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class InboxRow:
    id: int
    public_id: str
    source: str
    external_id: str
    conversation_id: int
    text: str
    state: str
    fence: int
    error: str | None
    placeholder: str | None
    reply_id: int | None


@dataclass(frozen=True, slots=True)
class MessageRow:
    id: int
    conversation_id: int
    parent_id: int | None
    role: str
    content: str
    created_at: float


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """`text` and `edit` are Telegram's part of the payload."""

    id: int
    public_id: str
    inbox_id: int | None
    channel: str
    lane: str
    state: str
    error: str | None
    reference: str | None
    created_at: float
    text: str = ""
    edit: int | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """A message of the bot's that a chat shows at the end."""

    chat: int
    id: int
    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the bot's to Telegram that names a chat. `message` is what was sent or edited; 0: nothing was.

    `outcome`: ok, nothing, or the refusal. `fault`: what was planned to go wrong with it.
    """

    at: float
    method: str
    chat: int
    message: int
    text: str
    outcome: str
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Post:
    """One try of a callback, as its receiver saw it. `answered`: the status; None: the connection was closed."""

    at: float
    webhook_id: str
    message_id: str
    conversation: str
    answered: int | None


@dataclass(slots=True)
class Life:
    """A process of the service's, from its start to its end. `how`: what ended it; empty: it did so by itself."""

    gateway: str
    started: float
    ready: float | None = None
    model_seconds: float = 0.0
    ended: float = 0.0
    how: str = ""
    code: int = 0
    stop_seconds: float = 0.0
    reached: str = ""  # the failpoint that it died at
    last_words: str = ""  # of one that ended by itself
    reloads: list[tuple[float, float]] = field(default_factory=list)  # (when, how long) after the model's process died


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something else that went wrong for a time: a fault of a fake's, a full disk, a pause, a database away."""

    kind: str
    began: float
    ended: float


@dataclass(slots=True)
class History:
    dialect: str = "sqlite"
    gateways: int = 1
    asks: list[Ask] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    inbox: list[InboxRow] = field(default_factory=list)
    messages: list[MessageRow] = field(default_factory=list)
    outbox: list[OutboxRow] = field(default_factory=list)
    drafts: int = 0
    pending: list[str] = field(default_factory=list)  # names of updates that Telegram still holds
    shown: list[Shown] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    posts: list[Post] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    worker_kills: list[float] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    noted: list[str] = field(default_factory=list)  # what was found wrong while it ran

    @property
    def deaths(self) -> list[float]:
        """When a process was killed."""
        return [life.ended for life in self.lives if life.how != "SIGTERM" and life.ended]


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must never happen, and the evidence."""

    kind: str
    evidence: str
