"""Every check of the torture bench finds what it is there for: a good history, and one change to it that is bad."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from bench.torture.checks import Index
from bench.torture.history import (
    Ask,
    Call,
    Heard,
    History,
    InboxRow,
    Life,
    MessageRow,
    OutboxRow,
    Post,
    Shown,
    Trouble,
)
from bench.torture.plan import rounds
from bench.torture.recovery import Recovery, recoveries
from bench.torture.report import summarised, table, violations
from bench.torture.telegram_checks import Chats, placeholders, shown_out_of_order

CHAT = 1001
SHOP, TELEGRAM = "webhook:shop", "telegram"


def asked(number: int, mode: str, conversation: str, at: float, *, accepted: bool = True) -> Ask:
    telegram = mode in ("telegram", "command")
    return Ask(
        f"q{number}.", mode, conversation, TELEGRAM if telegram else SHOP, f"key-{number}", at,
        accepted_at=None if telegram or not accepted else at + 0.5, told_id="" if telegram else f"msg_{number}",
    )  # fmt: skip


def stored(number: int, conversation: int, reply: int | None, source: str = SHOP, text: str = "") -> InboxRow:
    text = text or f"q{number}. hello"
    return InboxRow(number, f"msg_{number}", source, f"key-{number}", conversation, text, "done", 1, None, None, reply)


def said(first: int, conversation: int, *numbers: int) -> Iterable[MessageRow]:
    """A conversation of questions and answers, in rows from `first` on."""
    parent = None
    for row, number in zip(range(first, first + 2 * len(numbers), 2), numbers, strict=True):
        yield MessageRow(row, conversation, parent, "user", f"q{number}. hello", 100.0 + row)
        yield MessageRow(row + 1, conversation, row, "assistant", f"answer {number}", 100.0 + row)
        parent = row + 1


def callback(number: int, inbox_id: int) -> OutboxRow:
    lane = "webhook:shop:told"
    return OutboxRow(number, f"dlv_{number}", inbox_id, "callback", lane, "sent", None, None, 100.0)


def message(number: int, inbox_id: int, text: str, reference: int, edit: int | None = None) -> OutboxRow:
    return OutboxRow(
        number, f"dlv_{number}", inbox_id, "telegram", str(CHAT), "sent", None, str(reference), 100.0, text, edit
    )


def sends(at: float, number: int, text: str, fault: str = "") -> Call:
    return Call(at, "sendMessage", CHAT, number, text, "ok", fault)


def edits(at: float, number: int, text: str, outcome: str = "ok") -> Call:
    return Call(at, "editMessageText", CHAT, number, text, outcome)


def good() -> History:
    """Two questions to a program, two by callback, two on Telegram with a command between; one kill, one stop."""
    return History(
        asks=[
            asked(1, "wait", "room", 100.0), asked(2, "stream", "room", 101.0),
            asked(3, "callback", "told", 100.0), asked(4, "callback", "told", 101.0),
            asked(5, "telegram", str(CHAT), 100.0), asked(6, "command", str(CHAT), 101.0),
            asked(7, "telegram", str(CHAT), 102.0),
        ],
        heard=[Heard("q1.", 103.0, "msg_1", "answer 1"), Heard("q1.", 104.0, "msg_1", "answer 1"),
               Heard("q2.", 103.0, "msg_2", "answer 2")],
        inbox=[
            stored(1, 1, 2), stored(2, 1, 4), stored(3, 2, 6), stored(4, 2, 8), stored(5, 3, 10, TELEGRAM),
            stored(6, 3, None, TELEGRAM, "/help q6."), stored(7, 3, 12, TELEGRAM),
        ],
        messages=[*said(1, 1, 1, 2), *said(5, 2, 3, 4), *said(9, 3, 5, 7)],
        outbox=[callback(1, 3), callback(2, 4), message(3, 6, "I help.", 22), message(4, 5, "answer 5", 21, 21),
                message(5, 7, "answer 7", 23)],
        shown=[Shown(CHAT, 21, "answer 5"), Shown(CHAT, 22, "I help."), Shown(CHAT, 23, "answer 7")],
        calls=[sends(102.0, 21, "…"), sends(102.1, 22, "I help."), edits(103.0, 21, "answer 5"),
               sends(140.0, 23, "answer 7")],
        posts=[Post(103.0, "dlv_1", "msg_3", "told", 500), Post(104.0, "dlv_1", "msg_3", "told", 200),
               Post(105.0, "dlv_2", "msg_4", "told", 200)],
        lives=[Life("a", 90.0, 92.0, 1.0, 101.5, "kill", -9), Life("a", 102.0, 104.0, 1.5, 150.0, "SIGTERM", 0, 2.0)],
    )  # fmt: skip


def kinds(history: History) -> set[str]:
    return {violation.kind for violation in violations(Index(history))}


def test_a_good_history_has_nothing_to_complain_about():
    assert violations(Index(good())) == []


def test_what_is_allowed_is_counted_and_no_violation():
    history = good()
    history.outbox[-1] = replace(history.outbox[-1], state="uncertain", reference=None)
    history.calls[-1] = replace(history.calls[-1], fault="drop after")
    history.shown.append(Shown(CHAT, 24, "…"))
    history.calls.append(sends(149.5, 24, "…"))
    history.lives[1] = replace(history.lives[1], how="kill")
    index = Index(history)
    assert violations(index) == []
    assert len(placeholders(Chats(index))) == 1
    counts = summarised(index, 10.0).counts
    assert (counts["Telegram: uncertain sends"], counts["Telegram: '…' left behind"]) == (1, 1)
    assert counts["callbacks: redeliveries with the same id"] == 1


Change = Callable[[History], object]


def alter(field: str, place: int, **values: object) -> Change:
    """Changes one item of one of the history's lists."""

    def change(history: History) -> None:
        items = getattr(history, field)
        items[place] = replace(items[place], **values)

    return change


def without(field: str, place: int) -> Change:
    return lambda history: getattr(history, field).pop(place)


def extra(field: str, item: object) -> Change:
    return lambda history: getattr(history, field).append(item)


def swapped(*swaps: tuple[str, int, int]) -> Change:
    def change(history: History) -> None:
        for field, one, other in swaps:
            items = getattr(history, field)
            items[one], items[other] = items[other], items[one]

    return change


BAD: dict[str, tuple[str, Change]] = {
    "a program is never told": ("lost", without("heard", 2)),
    "its row is gone": ("lost", without("inbox", 1)),
    "its row has another text": ("lost", alter("inbox", 0, text="q9. hello")),
    "it is still being answered": ("lost", alter("inbox", 1, state="claimed", reply_id=None)),
    "its answer is gone": ("lost", alter("inbox", 1, reply_id=99)),
    "it has the reply of another": ("lost", alter("inbox", 1, reply_id=6)),
    "its callback was never acknowledged": ("lost", alter("posts", 2, answered=None)),
    "no answer on Telegram was planned": ("lost", without("outbox", 4)),
    "an update of Telegram's was confirmed and is nowhere": ("lost", without("inbox", 6)),
    "a command was not carried out": ("lost", alter("inbox", 5, state="queued")),
    "a message is never accepted": ("never accepted", alter("asks", 0, accepted_at=None)),
    "an update is never fetched": ("never accepted", extra("pending", "key-7")),
    "one that nobody sent": ("a message from nowhere", extra("inbox", stored(8, 4, None))),
    "the same key twice": ("a message stored twice", extra("inbox", stored(1, 1, 2))),
    "one reply for two": ("one reply of two messages", alter("inbox", 1, reply_id=2)),
    "one question, two answers": (
        "two answers to one question", extra("messages", MessageRow(20, 1, 1, "assistant", "again", 100.0)),
    ),
    "the question is there twice": (
        "a question stored twice", extra("messages", MessageRow(20, 1, 4, "user", "q1. hello", 100.0)),
    ),
    "an answer to nobody": (
        "an answer that is nobody's", extra("messages", MessageRow(20, 1, 4, "assistant", "again", 100.0)),
    ),
    "another reply to the same key": (
        "two different replies", extra("heard", Heard("q1.", 105.0, "msg_1", "answer 1b")),
    ),
    "the same reply under another id": (
        "two different replies", extra("heard", Heard("q1.", 105.0, "msg_9", "answer 1")),
    ),
    "failed after it was answered": ("two different replies", extra("heard", Heard("q1.", 105.0, "", "", True))),
    "told what is not stored": ("a reply that is not the stored one", alter("heard", 2, text="answer 2b")),
    "two webhook-ids": (
        "two callbacks of one message", extra("posts", Post(106.0, "dlv_9", "msg_3", "told", 200)),
    ),
    "two deliveries": ("two callbacks of one message", extra("outbox", callback(9, 3))),
    "the history is no chain": ("messages out of order", alter("messages", 2, parent_id=None)),
    "answered before one that was accepted earlier": (
        "answered out of order", alter("asks", 0, sent_at=110.0, accepted_at=110.5),
    ),
    "answered before one that was stored earlier": (
        "answered out of order",
        lambda history: history.inbox.__setitem__(
            slice(2), [replace(history.inbox[1], id=1), replace(history.inbox[0], id=2)]
        ),
    ),
    "told before an earlier one": ("callbacks out of order", swapped(("posts", 1, 2))),
    "given up": ("a dead letter", alter("inbox", 0, state="failed", reply_id=None)),
    "a delivery given up": ("a dead letter", alter("outbox", 0, state="dead")),
    "answered although it could not be": ("an answer to what has none", alter("asks", 0, hopeless=True)),
    "a delivery still being sent": ("a delivery without an end", alter("outbox", 0, state="sending")),
    "drafts": ("drafts left behind", lambda history: setattr(history, "drafts", 1)),
    "a process that falls": ("a process that ended by itself", alter("lives", 0, how="")),
    "a stop that takes too long": ("a bad stop", alter("lives", 1, stop_seconds=10.5)),
    "a stop with an error": ("a bad stop", alter("lives", 1, code=1)),
    "the fakes complain": ("noted meanwhile", extra("noted", "getUpdates while another getUpdates was waiting")),
    "the chat shows half an answer": ("an answer that its chat does not show", alter("shown", 0, text="answ")),
    "the chat shows no answer": ("an answer that its chat does not show", without("shown", 2)),
    "the chat is shown another answer": ("an answer that is not the stored one", alter("messages", 9, content="no")),
    "one message, two answers": ("two answers in one message", alter("outbox", 4, reference="21")),
    "the answer is there twice": ("a doubled message", extra("shown", Shown(CHAT, 24, "answer 7"))),
    "a message nobody has planned": ("a stray message", extra("shown", Shown(CHAT, 24, "half an ans"))),
    "uncertain for no reason": (
        "an uncertain delivery", alter("outbox", 4, state="uncertain", reference=None),
    ),
    "a placeholder for no reason": (
        "a placeholder left behind",
        lambda history: (history.shown.append(Shown(CHAT, 24, "…")), history.calls.append(sends(130.0, 24, "…"))),
    ),
    "completed before an earlier one": (
        "completed out of order", lambda history: history.calls.append(edits(145.0, 21, "answer 5")),
    ),
    "a call in a pause": (
        "a call in a pause that Telegram asked for",
        lambda history: (
            history.calls.append(Call(120.0, "sendMessage", CHAT, 0, "x", "429 Too Many Requests: retry after 3")),
            history.calls.append(edits(122.0, 21, "x", "429 Too Many Requests: retry after 4")),
        ),
    ),
    "an edit in vain": (
        "an edit that changes nothing",
        extra("calls", edits(110.0, 21, "answer 5", "400 Bad Request: message is not modified: …")),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "change"), BAD.values(), ids=BAD)
def test_what_must_not_be_is_found(kind: str, change: Change):
    history = good()
    change(history)
    assert kind in kinds(history)


def test_a_pause_is_over_for_a_new_process():
    history = good()
    history.calls = [
        Call(101.0, "sendMessage", CHAT, 0, "x", "429 Too Many Requests: retry after 3"), *history.calls
    ]  # fmt: skip
    assert kinds(history) == set()


def test_an_edit_in_vain_is_right_where_the_first_was_not_answered():
    history = good()
    history.calls[2] = replace(history.calls[2], fault="drop after")
    history.calls.append(edits(110.0, 21, "answer 5", "400 Bad Request: message is not modified: …"))
    assert kinds(history) == set()


def test_a_placeholder_may_stay_where_the_database_was_away():
    history = good()
    history.shown.append(Shown(CHAT, 24, "…"))
    history.calls.append(sends(130.0, 24, "…"))
    history.troubles.append(Trouble("database", 130.5, 132.0))
    assert kinds(history) == set()


def test_answers_shown_above_earlier_ones_are_counted():
    history = good()
    history.outbox[3] = replace(history.outbox[3], reference="24", edit=None)
    history.shown[0] = Shown(CHAT, 24, "answer 5")
    assert shown_out_of_order(Chats(Index(history))) == ["q7. above q5. in chat 1001"]


def test_recovery_is_from_the_kill_to_the_next_reply_without_the_model_s_load():
    history = good()
    history.lives = [
        Life("a", 90.0, 92.0, 1.0, 100.5, "kill"),
        Life("a", 100.6, None, 0.0, 101.0, "kill"),  # died before it was ready
        Life("a", 101.1, 102.0, 1.5, 104.0, "kill"),
        Life("a", 104.1, 106.0, 1.5, 150.0, "SIGTERM"),
    ]
    history.messages = [
        MessageRow(number, 1, None, "assistant", "", at) for number, at in enumerate((99.0, 103.5, 120.0))
    ]
    assert recoveries(history) == [Recovery(1.0, 1.5, held_up=False), Recovery(14.5, 1.5, held_up=False)]
    history.troubles = [Trouble("callbacks", 101.0, 103.0), Trouble("pause", 107.0, 109.0)]
    assert [one.held_up for one in recoveries(history)] == [False, True]


def test_a_load_is_no_excuse_where_another_gateway_is_there():
    history = good()
    history.gateways = 2
    history.lives = [
        Life("a", 90.0, 92.0, 1.0, 100.0, "kill"),
        Life("a", 100.1, 102.0, 1.5, 150.0, "SIGTERM"),
        Life("b", 90.0, 92.0, 1.0, 120.0, "kill"),
    ]
    history.messages = [MessageRow(1, 1, None, "assistant", "", 103.0)]
    assert recoveries(history) == [Recovery(3.0, 0.0, held_up=False)]
    history.lives[2].ended = 102.5  # neither was there all the time
    assert recoveries(history) == [Recovery(1.5, 1.5, held_up=False)]


def test_recovery_from_the_death_of_a_model_is_without_the_load_of_the_next():
    history = good()
    history.lives = [Life("a", 90.0, 92.0, 1.0, 101.0, "SIGTERM", reloads=[(96.5, 1.25), (99.5, 1.5)])]
    history.messages = [
        MessageRow(number, 1, None, "assistant", "", at) for number, at in enumerate((94.0, 97.0, 102.0))
    ]
    history.worker_kills = [95.0, 98.0]  # no reply came after the second one before its service's end
    assert recoveries(history) == [Recovery(0.75, 1.25, held_up=False)]


def test_the_same_seed_is_the_same_plan_with_as_many_kills_as_wanted():
    plan = list(rounds("1/0", 1000))
    assert plan == list(rounds("1/0", 1000))
    assert plan != list(rounds("2/0", 1000))
    assert 1000 <= sum(one.kills for one in plan) <= 1002
    ends = {one.end for one in plan}
    assert ends == {"moment", "startup", "failpoint", "worker", "term", "term failpoint", "migration"}


def test_the_table_names_the_violations():
    history = good()
    history.noted.append("something")
    printed = table(summarised(Index(history), 12.0))
    assert "noted meanwhile" in printed
    assert "kill -9 of the service" in printed
