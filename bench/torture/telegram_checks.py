"""What must be true of Telegram's chats: each answer once, whole, in its place, and nothing else.

Nobody can ask Telegram what a call did whose answer was lost. So a send may be left uncertain, and a "…" may stay
behind, but only where its own call was hit: by a fault of Telegram's, or by the death of the process around it.
"""

from collections import defaultdict
from collections.abc import Iterator

from bench.torture.checks import Found, Index
from bench.torture.history import Call, History, OutboxRow, Violation
from tests.fakes.telegram_rules import formatted
from tests.fakes.telegram_types import Params

PLACEHOLDER = "…"
ON_ITS_WAY = 0.1  # seconds
AROUND = 0.7  # seconds from a call to the commit that notes it, on a machine that is busy with worse


class Chats:
    """The chats by messages and deliveries."""

    def __init__(self, index: Index) -> None:
        history = index.history
        self.index = index
        self.shown = {(one.chat, one.id): one.text for one in history.shown}
        self.of_row: defaultdict[int | None, list[OutboxRow]] = defaultdict(list)
        for row in history.outbox:
            if row.channel == "telegram":
                self.of_row[row.inbox_id].append(row)
        self.claimed: dict[tuple[int, int], OutboxRow] = {}  # who answers for a message in a chat
        self.violations: list[Violation] = []
        for row in history.outbox:
            if row.channel == "telegram" and row.state == "sent":
                self._claim(row)
        self.unclaimed = {place: text for place, text in self.shown.items() if place not in self.claimed}

    def _claim(self, row: OutboxRow) -> None:
        place = (int(row.lane), int(row.reference or 0))
        if place in self.claimed:
            self.violations.append(Violation("two answers in one message", f"{row} and {self.claimed[place]}"))
        elif self.shown.get(place) != as_kept(row.text):
            self.violations.append(
                Violation("an answer that its chat does not show", f"{row}; it shows {self.shown.get(place)!r}")
            )
        self.claimed[place] = row


def as_kept(text: str) -> str:
    """A text as Telegram keeps it."""
    return formatted(Params({"text": text})).text


def answers(chats: Chats) -> Iterator[Violation]:
    """Every question has its whole answer in its chat; everything else there is explained."""
    yield from chats.violations
    for found in chats.index.found:
        if found.ask.mode in ("telegram", "command") and found.row:
            yield from _answer(chats, found)


def _answer(chats: Chats, found: Found) -> Iterator[Violation]:
    row = found.row
    assert row
    if row.state not in ("done", "failed"):
        return
    parts = chats.of_row[row.id]
    if not parts:
        yield Violation("lost", f"{found.ask.marker} (telegram): no delivery was planned; {row}")
    reply = chats.index.messages.get(row.reply_id or 0)
    said = "".join("".join(part.text for part in parts).split())
    if reply and not said.startswith("".join(reply.content.split())):
        yield Violation("an answer that is not the stored one", f"{found.ask.marker}: {parts} {reply}")


def extra(chats: Chats) -> Iterator[Violation]:
    """Messages of the bot's that no delivery answers for."""
    maybe: defaultdict[int, list[str]] = defaultdict(list)
    for rows in chats.of_row.values():
        for row in rows:
            if row.state == "uncertain":
                maybe[int(row.lane)].append(as_kept(row.text))
    for (chat, message), text in chats.unclaimed.items():
        if text in maybe[chat]:
            maybe[chat].remove(text)
        elif text != PLACEHOLDER:
            others = {shown for place, shown in chats.shown.items() if place[0] == chat and place[1] != message}
            kind = "a doubled message" if text in others else "a stray message"
            yield Violation(kind, f"chat {chat}, message {message}: {text[:80]!r}")


def placeholders(chats: Chats) -> list[Call | None]:
    """The calls that left a "…" behind."""
    sends = {(call.chat, call.message): call for call in chats.index.history.calls if call.method == "sendMessage"}
    return [sends.get(place) for place, text in chats.unclaimed.items() if text == PLACEHOLDER]


def uncertain(history: History) -> list[OutboxRow]:
    """The deliveries that may have arrived."""
    return [row for row in history.outbox if row.state == "uncertain"]


def unexcused(chats: Chats) -> Iterator[Violation]:
    """What was left uncertain or behind although nothing hit the call."""
    history = chats.index.history
    for call in placeholders(chats):
        if call is None or not _hit(history, call):
            yield Violation("a placeholder left behind", f"{call}")
    for row in uncertain(history):
        calls = [call for call in history.calls if _is_of(row, call)]
        died = any(row.created_at <= death for death in history.deaths)
        if not any(_hit(history, call) for call in calls) and not (died and not calls):
            yield Violation("an uncertain delivery", f"{row}; its calls: {calls}")


def _is_of(row: OutboxRow, call: Call) -> bool:
    """Whether the call may be a try of the delivery; commands get the same text each time."""
    return call.chat == int(row.lane) and call.text == row.text and call.at >= row.created_at - 1


def _hit(history: History, call: Call) -> bool:
    """Whether a fault was planned for the call, or the process died or the database was away around it."""
    if call.fault:
        return True
    struck = [*history.deaths, *(trouble.began for trouble in history.troubles if trouble.kind != "callbacks")]
    over = [(trouble.began, trouble.ended) for trouble in history.troubles if trouble.kind != "callbacks"]
    return any(call.at - 1 <= at <= call.at + AROUND for at in struck) or any(a <= call.at <= b for a, b in over)


def order(chats: Chats) -> Iterator[Violation]:
    """The answers of a conversation were completed in its order."""
    done: dict[tuple[int, int], float] = {}
    for call in chats.index.history.calls:
        if call.message and call.outcome == "ok":
            done[call.chat, call.message] = call.at
    last: dict[int, tuple[float, Found]] = {}
    for found in _in_turn(chats.index):
        at = [done.get(_place(part), 0.0) for part in chats.of_row[found.row.id if found.row else 0]
              if part.state == "sent"]  # fmt: skip
        conversation = found.row.conversation_id if found.row else 0
        if at and conversation in last and min(at) < last[conversation][0]:
            yield Violation("completed out of order", f"{found.ask} before {last[conversation][1].ask}")
        if at:
            last[conversation] = (max(at), found)


def shown_out_of_order(chats: Chats) -> list[str]:
    """Answers that stand above the answer to an earlier question of their conversation."""
    inverted: list[str] = []
    last: dict[int, tuple[int, Found]] = {}
    for found in _in_turn(chats.index):
        numbers = [_place(part)[1] for part in chats.of_row[found.row.id if found.row else 0] if part.state == "sent"]
        conversation = found.row.conversation_id if found.row else 0
        if numbers and conversation in last and min(numbers) < last[conversation][0]:
            above = last[conversation][1].ask
            inverted.append(f"{found.ask.marker} above {above.marker} in chat {found.ask.conversation}")
        if numbers and (conversation not in last or max(numbers) > last[conversation][0]):
            last[conversation] = (max(numbers), found)
    return inverted


def _in_turn(index: Index) -> list[Found]:
    """Questions on Telegram, as they were asked."""
    return [found for found in index.found if found.ask.mode == "telegram" and found.row]


def _place(row: OutboxRow) -> tuple[int, int]:
    return int(row.lane), int(row.reference or 0)


def manners(history: History) -> Iterator[Violation]:
    """Nothing is said in a chat that has asked for a pause, and nothing is edited into what it is already.

    A new process knows neither, a call that is on its way can't be taken back, and an edit whose answer was lost has
    to be made again.
    """
    asked: dict[int, Call] = {}
    text: dict[tuple[int, int], Call] = {}
    for call in history.calls:
        pause = asked.get(call.chat)
        if pause and ON_ITS_WAY < call.at - pause.at < _pause(pause) and not _died_between(history, pause.at, call.at):
            late = call.at - pause.at
            yield Violation("a call in a pause that Telegram asked for", f"{call} {late:.2f} s after {pause}")
        if call.outcome.startswith("429"):
            asked[call.chat] = call
        before = text.get((call.chat, call.message))
        in_vain = "not modified" in call.outcome and before and not before.fault
        if before and in_vain and not _died_between(history, before.at, call.at):
            yield Violation("an edit that changes nothing", f"{call} after {before}")
        if call.message and call.outcome == "ok":
            text[call.chat, call.message] = call


def _pause(call: Call) -> float:
    """Seconds that a refusal asks for."""
    return float(call.outcome.rpartition(" ")[2])


def _died_between(history: History, began: float, ended: float) -> bool:
    return any(began - 1 <= life.ended <= ended + 1 for life in history.lives if life.ended)
