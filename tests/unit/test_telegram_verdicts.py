"""What a failed call means for its delivery."""

import httpx
import pytest
from telegram.error import BadRequest, ChatMigrated, Forbidden, InvalidToken, NetworkError, TelegramError, TimedOut

from bot.delivery import TryLater, Uncertain, Undeliverable
from bot.telegram.send import NEVER_SENT, verdict


def network_error(cause: Exception | None = None) -> NetworkError:
    """As python-telegram-bot raises it: the HTTP client's error is the cause."""
    error = NetworkError(f"httpx.{type(cause).__name__}")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("cause", NEVER_SENT)
def test_what_never_left_is_tried_again(cause: type[Exception]):
    assert isinstance(verdict(network_error(cause("")), repeatable=False), TryLater)


@pytest.mark.parametrize("cause", [httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadTimeout])
def test_what_may_have_arrived_is_repeated_only_where_that_does_no_harm(cause: type[Exception]):
    assert isinstance(verdict(network_error(cause("")), repeatable=False), Uncertain)
    assert isinstance(verdict(network_error(cause("")), repeatable=True), TryLater)


@pytest.mark.parametrize("error", [NetworkError("Bad Gateway"), TimedOut()])
def test_a_server_error_leaves_a_send_uncertain(error: TelegramError):
    assert isinstance(verdict(error, repeatable=False), Uncertain)
    assert isinstance(verdict(error, repeatable=True), TryLater)


@pytest.mark.parametrize("error", [Forbidden("bot was blocked by the user"), BadRequest("Chat not found")])
@pytest.mark.parametrize("repeatable", [True, False])
def test_a_refusal_is_final(error: TelegramError, *, repeatable: bool):
    assert isinstance(verdict(error, repeatable=repeatable), Undeliverable)


@pytest.mark.parametrize("error", [InvalidToken("Unauthorized"), ChatMigrated(-1001)])
def test_what_telegram_did_not_carry_out_is_tried_again(error: TelegramError):
    assert isinstance(verdict(error, repeatable=False), TryLater)
