"""What each way for a call to fail means for its delivery: tried again, given up, or uncertain."""

from datetime import UTC, datetime
from types import SimpleNamespace

import httpx
import msgspec
import pytest
import telegram
from telegram.error import NetworkError, TimedOut
from telegram.request import BaseRequest

from bot.delivery import TryLater, Uncertain, Undeliverable
from bot.telegram.gate import FloodGate
from bot.telegram.send import NEVER_SENT, Chart, Payload, TelegramSender, planned
from storage.outbox import Delivery

CHART = Payload(7, "", chart=Chart("zh", datetime(2026, 11, 24, tzinfo=UTC)))
MESSAGE = b'{"ok":true,"result":{"message_id":9,"date":1,"chat":{"id":7,"type":"private"}}}'


def refused(code: int, description: str) -> tuple[int, bytes]:
    return code, f'{{"ok":false,"error_code":{code},"description":"{description}"}}'.encode()


class Scripted(BaseRequest):
    """Answers calls from a list: a status and body, or an error as python-telegram-bot's own client raises it."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.methods: list[str] = []

    async def initialize(self) -> None: ...

    async def shutdown(self) -> None: ...

    @property
    def read_timeout(self) -> float:
        return 5.0

    async def do_request(self, url: str, *_args: object, **_kwargs: object) -> tuple[int, bytes]:
        self.methods.append(url.rpartition("/")[2])
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            wrapped = TimedOut() if isinstance(answer, httpx.TimeoutException) else NetworkError(str(answer))
            raise wrapped from answer
        return answer


def delivery(payload: Payload) -> Delivery:
    new = planned(payload)
    return Delivery(1, "dlv_1", "me", None, new.channel, new.destination, new.lane, new.payload, "sending", 1, 0, None)


async def send(request: Scripted, *, edit: int | None, gate: FloodGate | None = None) -> str | None:
    return await send_whole(request, Payload(7, "Hello", edit), gate)


async def send_whole(request: Scripted, payload: Payload, gate: FloodGate | None = None) -> str | None:
    bot = telegram.Bot("123:abc", request=request, get_updates_request=request)
    return await TelegramSender(bot, gate or FloodGate(), cost).send(delivery(payload))


async def cost(_language: str, at: datetime) -> SimpleNamespace:
    assert at == CHART.chart.at

    async def draw() -> bytes:
        return b"a picture"

    return SimpleNamespace(caption="¥3.20", draw=draw)


BEFORE_IT_LEFT = [
    httpx.ConnectError("refused"),
    httpx.ConnectTimeout(""),
    httpx.PoolTimeout(""),
    httpx.ProxyError(""),
    httpx.UnsupportedProtocol(""),
]
NOT_CARRIED_OUT = [
    refused(401, "Unauthorized"),
    (400, b'{"ok":false,"error_code":400,"description":"upgraded","parameters":{"migrate_to_chat_id":-1001}}'),
]
ON_THE_WAY = [
    httpx.ReadTimeout(""),
    httpx.WriteTimeout(""),
    httpx.ReadError(""),
    httpx.WriteError(""),
    httpx.RemoteProtocolError(""),
]
FAULTY = [(500, b"{}"), (502, b"<html>"), refused(504, "Gateway Timeout")]
FOR_GOOD = [
    refused(403, "Forbidden: bot was blocked by the user"),
    refused(400, "Bad Request: chat not found"),
]
SOME_ANSWERS = [
    (200, b"<html>Log in to this network</html>"),
    (200, b"{}"),
    (200, b"[]"),
    (200, b'{"result":{}}'),
]


@pytest.mark.parametrize("edit", [None, 9], ids=["send", "edit"])
@pytest.mark.parametrize("answer", [*BEFORE_IT_LEFT, *NOT_CARRIED_OUT], ids=repr)
async def test_what_never_left_or_was_not_carried_out_is_tried_again(answer: object, edit: int | None):
    with pytest.raises(TryLater):
        await send(Scripted(answer), edit=edit)


def test_each_error_of_a_request_that_never_left_is_tried():
    assert {type(error) for error in BEFORE_IT_LEFT} == set(NEVER_SENT)


@pytest.mark.parametrize("answer", [*ON_THE_WAY, *FAULTY], ids=repr)
async def test_what_may_have_arrived_is_repeated_only_where_that_changes_nothing(answer: object):
    with pytest.raises(Uncertain):
        await send(Scripted(answer), edit=None)
    with pytest.raises(TryLater):
        await send(Scripted(answer), edit=9)


@pytest.mark.parametrize("answer", SOME_ANSWERS, ids=repr)
async def test_an_answer_that_is_not_telegrams_leaves_a_send_uncertain(answer: object):
    with pytest.raises(Uncertain):
        await send(Scripted(answer), edit=None)


@pytest.mark.parametrize("edit", [None, 9], ids=["send", "edit"])
@pytest.mark.parametrize("answer", FOR_GOOD, ids=repr)
async def test_a_refusal_is_final(answer: object, edit: int | None):
    with pytest.raises(Undeliverable):
        await send(Scripted(answer), edit=edit)


async def test_a_pause_closes_the_chat_for_later_calls_too():
    gate = FloodGate()
    asked = 429, b'{"ok":false,"error_code":429,"description":"Too Many","parameters":{"retry_after":30}}'
    request = Scripted(asked)
    with pytest.raises(TryLater) as first:
        await send(request, edit=None, gate=gate)
    assert 30 <= first.value.after <= 31
    with pytest.raises(TryLater) as second:
        await send(request, edit=9, gate=gate)
    assert 29 <= second.value.after <= 31
    assert request.methods == ["sendMessage"]


async def test_an_edit_that_changes_nothing_is_done():
    assert await send(Scripted(refused(400, "Bad Request: message is not modified: exactly the same")), edit=9) == "9"


@pytest.mark.parametrize("reason", ["message to edit not found", "message can't be edited"])
async def test_an_edit_of_a_message_that_is_gone_becomes_a_message(reason: str):
    request = Scripted(refused(400, f"Bad Request: {reason}"), (200, MESSAGE))
    assert await send(request, edit=4) == "9"
    assert request.methods == ["editMessageText", "sendMessage"]


async def test_a_message_that_took_an_edits_place_is_not_repeated():
    request = Scripted(refused(400, "Bad Request: message to edit not found"), httpx.ReadTimeout(""))
    with pytest.raises(Uncertain):
        await send(request, edit=4)


@pytest.mark.parametrize("reason", ["message to edit not found", "message can't be edited"])
async def test_buttons_of_a_message_that_is_gone_are_gone(reason: str):
    request = Scripted(refused(400, f"Bad Request: {reason}"))
    assert await send_whole(request, Payload(7, "", edit=4)) == "4"
    assert request.methods == ["editMessageReplyMarkup"]


@pytest.mark.parametrize(
    ("answers", "error", "methods"),
    [
        ([httpx.ConnectError("refused")], TryLater, ["sendPhoto"]),
        ([httpx.ReadTimeout("")], Uncertain, ["sendPhoto"]),
        ([refused(403, "Forbidden: bot was blocked by the user")], Undeliverable, ["sendPhoto"]),
        ([refused(400, "Bad Request: chat not found")] * 2, Undeliverable, ["sendPhoto", "sendMessage"]),
        ([refused(400, "Bad Request: PHOTO_INVALID_DIMENSIONS"), httpx.ReadTimeout("")], Uncertain,
         ["sendPhoto", "sendMessage"]),
        ([(200, b"<html>")], Uncertain, ["sendPhoto"]),
    ],
)  # fmt: skip
async def test_how_a_picture_may_fail(answers: list[object], error: type[Exception], methods: list[str]):
    request = Scripted(*answers)
    with pytest.raises(error):
        await send_whole(request, CHART)
    assert request.methods == methods


async def test_a_picture_that_telegram_refuses_leaves_its_text():
    request = Scripted(refused(400, "Bad Request: IMAGE_PROCESS_FAILED"), (200, MESSAGE))
    assert await send_whole(request, CHART) == "9"
    assert request.methods == ["sendPhoto", "sendMessage"]


def test_what_an_earlier_version_has_planned_is_read():
    old = '{"chat_id":7,"text":"Hello","edit":null}'
    assert msgspec.json.decode(old, type=Payload) == Payload(7, "Hello")
    assert msgspec.json.decode(planned(CHART).payload, type=Payload) == CHART


def test_only_edits_are_repeatable():
    sender = TelegramSender(bot=None, gate=FloodGate())
    assert not sender.repeatable(delivery(CHART))
    assert sender.repeatable(delivery(Payload(7, "", edit=9)))
    assert sender.repeatable(delivery(Payload(7, "Hello", edit=9)))
    assert not sender.repeatable(delivery(Payload(7, "Hello")))
