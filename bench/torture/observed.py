"""Turns what the fakes and the users have seen into the history."""

import time

from bench.torture.clients import Record
from bench.torture.history import Call, History, Post, Shown
from bench.torture.people import BOT
from tests.fakes.callback_receiver import CallbackReceiver
from tests.fakes.telegram import FakeTelegram

OUR_OWN = ("during a 429 penalty", "changes nothing")  # judged by telegram_checks, which knows of deaths


def observe(history: History, record: Record, telegram: FakeTelegram, receiver: CallbackReceiver) -> None:
    """Completes a history with what was seen from outside."""
    clock = time.time() - time.monotonic()
    history.asks, history.heard = record.asks, record.heard
    history.pending = [f"{BOT}:{update.update_id}" for update in telegram.pending]
    chats = sorted({int(call.params["chat_id"]) for call in telegram.calls if call.params.get("chat_id")})
    bots = {chat: [one for one in telegram.chat(chat) if one.sender == "bot"] for chat in chats}
    history.shown = [Shown(chat, one.id, one.text) for chat, all_of in bots.items() for one in all_of]
    history.calls = _calls(telegram, {chat: [one.id for one in all_of] for chat, all_of in bots.items()}, clock)
    history.posts = [
        Post(one.at + clock, one.id, one.body.data.id, one.body.data.conversation, one.answered)
        for one in receiver.attempts
        if one.body
    ]
    history.noted += [f"Telegram: {one}" for one in telegram.violations if not any(own in one for own in OUR_OWN)]
    history.noted += [f"callbacks: {one}" for one in receiver.violations]
    history.noted += [f"a client: {one}" for one in record.refused]


def _calls(telegram: FakeTelegram, numbers: dict[int, list[int]], clock: float) -> list[Call]:
    """Those that name a chat. The fake numbers what is sent in the order of the calls, and nothing is deleted."""
    left = {chat: iter(some) for chat, some in numbers.items()}
    calls = []
    for call in telegram.calls:
        if not (chat := int(call.params.get("chat_id", 0))):
            continue
        message = int(call.params.get("message_id", 0))
        if call.method == "sendMessage" and call.outcome == "ok":
            message = next(left[chat])
        text = call.params.get("text", "")
        fault = call.fault.name if call.fault else ""
        calls.append(Call(call.time + clock, call.method, chat, message, text, call.outcome, fault))
    return calls
