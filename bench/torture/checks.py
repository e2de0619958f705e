"""What must be true of a history. Each check is a function of it alone and gives what it finds wrong."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.torture.gateway import SHUTDOWN
from bench.torture.history import Ask, History, InboxRow, MessageRow, Violation

SLACK = 0.3  # seconds that our own look at a process may take


@dataclass(frozen=True, slots=True)
class Found:
    """A message and the rows that came of it."""

    ask: Ask
    rows: list[InboxRow]

    @property
    def row(self) -> InboxRow | None:
        return self.rows[0] if self.rows else None


class Index:
    """The history by messages."""

    def __init__(self, history: History) -> None:
        self.history = history
        by_name: defaultdict[tuple[str, str], list[InboxRow]] = defaultdict(list)
        for row in history.inbox:
            by_name[row.source, row.external_id].append(row)
        self.found = [Found(ask, by_name[ask.source, ask.name]) for ask in history.asks]
        self.messages = {message.id: message for message in history.messages}
        self.waiting = set(history.pending)
        self.told_back = {post.message_id for post in history.posts if post.answered and 200 <= post.answered < 300}
        self.heard = {heard.marker for heard in history.heard}

    def accepted(self, ask: Ask) -> bool:
        """Whether its sender had reason to take it for accepted."""
        if ask.mode in ("telegram", "command"):
            return ask.name not in self.waiting
        return ask.accepted_at is not None


def unanswered(index: Index) -> Iterator[Violation]:
    """Messages that nobody ever accepted, although their senders went on trying until the end."""
    for found in index.found:
        if not index.accepted(found.ask):
            yield Violation("never accepted", f"{found.ask}")


def lost(index: Index) -> Iterator[Violation]:
    """Messages that were accepted and have no reply where it must be."""
    for found in index.found:
        if index.accepted(found.ask) and (reason := _missing(index, found)):
            yield Violation("lost", f"{found.ask.marker} ({found.ask.mode}): {reason}; {found.ask} {found.row}")


def _missing(index: Index, found: Found) -> str:
    ask, row = found.ask, found.row
    if row is None:
        return "it is not in the inbox"
    if ask.marker not in row.text:
        return f"its row has another text: {row.text[:60]!r}"
    if ask.mode == "command":
        return "" if row.state == "done" else f"it is {row.state}"
    if row.state not in ("done", "failed"):
        return f"it is still {row.state}"
    if row.state == "done" and (wrong := _reply_wrong(index, ask, row)):
        return wrong
    if ask.mode == "callback" and row.public_id not in index.told_back:
        return "its callback was never acknowledged"
    if ask.mode in ("wait", "stream") and ask.marker not in index.heard:
        return "its client never got the reply"
    return ""


def _reply_wrong(index: Index, ask: Ask, row: InboxRow) -> str:
    answer = index.messages.get(row.reply_id or 0)
    question = index.messages.get((answer and answer.parent_id) or 0)
    if answer is None or answer.role != "assistant":
        return "its reply is not in the messages"
    if question is None or ask.marker not in question.content:
        return "its reply answers another question"
    return ""


def unknown_messages(index: Index) -> Iterator[Violation]:
    """Rows of the inbox that nobody has sent."""
    sent = {(found.ask.source, found.ask.name) for found in index.found}
    for row in index.history.inbox:
        if (row.source, row.external_id) not in sent:
            yield Violation("a message from nowhere", f"{row}")


def doubled_rows(index: Index) -> Iterator[Violation]:
    """One row a message, one question and one answer a row."""
    for found in index.found:
        if len(found.rows) > 1:
            yield Violation("a message stored twice", f"{found.ask.marker}: {found.rows}")
    replies = Counter(row.reply_id for row in index.history.inbox if row.reply_id)
    answers = Counter(message.parent_id for message in index.history.messages if message.role == "assistant")
    for name, counts in (("one reply of two messages", replies), ("two answers to one question", answers)):
        for identifier, count in counts.items():
            if count > 1:
                yield Violation(name, f"message {identifier}: {count} times")
    said = Counter(message.content.partition(" ")[0] for message in index.history.messages if message.role == "user")
    for marker, count in said.items():
        if count > 1:
            yield Violation("a question stored twice", f"{marker}: {count} times")


def stray_answers(index: Index) -> Iterator[Violation]:
    """Answers that are no message's reply."""
    replies = {row.reply_id for row in index.history.inbox}
    for message in index.history.messages:
        if message.role == "assistant" and message.id not in replies:
            yield Violation("an answer that is nobody's", f"{message}")


def doubled_replies(index: Index) -> Iterator[Violation]:
    """However often a client asks with the same key, it hears the same; and that is what was stored."""
    stored = {found.ask.marker: found.row for found in index.found if found.row}
    first: dict[str, tuple[str, str, bool]] = {}
    for heard in index.history.heard:
        what = (heard.id, heard.text, heard.failed)
        if heard.failed:
            what = ("", "", True)
        if first.setdefault(heard.marker, what) != what:
            yield Violation("two different replies", f"{heard.marker}: {first[heard.marker]} and {what}")
        row = stored.get(heard.marker)
        answer = index.messages.get((row and row.reply_id) or 0)
        if not heard.failed and (row is None or answer is None or answer.content != heard.text):
            yield Violation("a reply that is not the stored one", f"{heard} {row} {answer}")


def doubled_callbacks(index: Index) -> Iterator[Violation]:
    """One webhook-id a message, and one delivery."""
    names: defaultdict[str, set[str]] = defaultdict(set)
    for post in index.history.posts:
        names[post.message_id].add(post.webhook_id)
    planned = Counter(row.inbox_id for row in index.history.outbox if row.channel == "callback")
    for message, ids in names.items():
        if len(ids) > 1:
            yield Violation("two callbacks of one message", f"{message}: {sorted(ids)}")
    for inbox_id, count in planned.items():
        if count > 1:
            yield Violation("two callbacks of one message", f"inbox row {inbox_id}: {count} deliveries")


def order(index: Index) -> Iterator[Violation]:
    """Within a conversation: questions as they were accepted, each behind the answer before it."""
    for rows in _by_conversation(index.history.messages).values():
        for earlier, later in pairwise(rows):
            if later.parent_id != earlier.id:
                yield Violation("messages out of order", f"{later} does not follow {earlier}")
    places = {message.id: message.id for message in index.history.messages}
    by_row = [found for found in index.found if found.row and found.row.reply_id]
    yield from _inversions("answered out of order", by_row, {
        found.ask.marker: places.get(found.row.reply_id or 0, 0) for found in by_row if found.row
    })  # fmt: skip
    if index.history.dialect == "sqlite":  # where rows become visible in the order of their numbers
        for rows in _by_conversation([row for row in index.history.inbox if row.reply_id]).values():
            for one, other in pairwise(rows):
                if (one.reply_id or 0) > (other.reply_id or 0):
                    yield Violation("answered out of order", f"{other} before {one}")


def order_of_callbacks(index: Index) -> Iterator[Violation]:
    """A conversation's callbacks were first acknowledged in the order of its messages."""
    first: dict[str, int] = {}
    for place, post in enumerate(index.history.posts):
        if post.answered and 200 <= post.answered < 300:
            first.setdefault(post.message_id, place)
    told = [found for found in index.found if found.row and found.row.public_id in first]
    yield from _inversions("callbacks out of order", told, {
        found.ask.marker: first[found.row.public_id] for found in told if found.row
    })  # fmt: skip


def _by_conversation(rows: Iterable[MessageRow] | Iterable[InboxRow]) -> dict[int, list]:
    grouped: defaultdict[int, list] = defaultdict(list)
    for row in rows:
        grouped[row.conversation_id].append(row)
    return grouped


def _inversions(kind: str, found: Sequence[Found], places: dict[str, int]) -> Iterator[Violation]:
    """Those that come behind one that was sent only after they had been accepted."""
    for rows in _grouped(found).values():
        last: Ask | None = None
        for ask in sorted((one.ask for one in rows), key=lambda ask: places[ask.marker]):
            if last and ask.settled_at is not None and ask.settled_at < last.sent_at:
                yield Violation(kind, f"{last} before {ask}")
            if last is None or ask.sent_at > last.sent_at:
                last = ask


def _grouped(found: Sequence[Found]) -> dict[int, list[Found]]:
    grouped: defaultdict[int, list[Found]] = defaultdict(list)
    for one in found:
        if one.row:
            grouped[one.row.conversation_id].append(one)
    return grouped


def dead_letters(index: Index) -> Iterator[Violation]:
    """Nothing is given up but what can't be answered; and that is."""
    for found in index.found:
        if found.row and (found.row.state == "failed") != found.ask.hopeless and found.ask.mode != "command":
            kind = "an answer to what has none" if found.ask.hopeless else "a dead letter"
            yield Violation(kind, f"{found.ask.marker}: {found.row}")
    for row in index.history.outbox:
        if row.state == "dead":
            yield Violation("a dead letter", f"{row}")
        elif row.state in ("planned", "sending"):
            yield Violation("a delivery without an end", f"{row}")
    if index.history.drafts:
        yield Violation("drafts left behind", f"{index.history.drafts}")


def processes(index: Index) -> Iterator[Violation]:
    """A process ends when it is told to, in time, and not before; but one that finds no database does not begin."""
    away = [trouble for trouble in index.history.troubles if trouble.kind == "database"]
    for life in index.history.lives:
        refused = not life.ready and any(one.began <= life.ended and life.started <= one.ended + SLACK for one in away)
        if not life.how and not refused:
            yield Violation("a process that ended by itself", f"{life}")
        elif life.how == "SIGTERM" and (life.code or life.stop_seconds > SHUTDOWN + SLACK):
            yield Violation("a bad stop", f"code {life.code} after {life.stop_seconds:.2f} s: {life}")


def noted(index: Index) -> Iterator[Violation]:
    """What was found while it ran: the fakes' own findings, looks at the tables, refusals."""
    for note in index.history.noted:
        yield Violation("noted meanwhile", note)
