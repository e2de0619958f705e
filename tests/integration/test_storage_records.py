"""Keys, clients, people, and the ledger."""

import asyncio
import base64
import hashlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import select

from storage import clients, inbox, keys, ledger, people
from storage.database import Database
from storage.errors import DuplicateName, InvalidName, UnknownName
from storage.inbox import Incoming
from storage.models import ApiKey

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def write(db: Database, work, *args, **named):
    async with db.write() as session:
        return await work(session, *args, **named)


async def read(db: Database, work, *args):
    async with db.read() as session:
        return await work(session, *args)


async def test_a_key_is_shown_once_and_kept_as_a_hash(db: Database) -> None:
    key = await write(db, keys.create_key, "ci", "chat", now=NOW)
    assert key.startswith("dsw_")
    assert len(key) == 47
    async with db.read() as session:
        row = await session.scalar(select(ApiKey))
    stored = [value for name, value in vars(row).items() if not name.startswith("_")]
    assert key not in stored
    assert (row.sha256, row.prefix) == (hashlib.sha256(key.encode()).hexdigest(), key[:8])


async def test_only_valid_keys_open(db: Database) -> None:
    key = await write(db, keys.create_key, "ci", "chat", now=NOW)
    found = await read(db, keys.authenticate, key)
    assert (found.name, found.scope, found.client_id) == ("ci", "chat", None)
    for wrong in ("", "dsw_", key[:-1], key.upper(), key + "\0", "\ud800"):
        assert await read(db, keys.authenticate, wrong) is None
    await write(db, keys.revoke_key, "ci", NOW)
    assert await read(db, keys.authenticate, key) is None
    assert (await read(db, keys.list_keys))[0].revoked_at == NOW
    with pytest.raises(UnknownName, match="ci"):
        await write(db, keys.revoke_key, "ci", NOW)


async def test_a_key_name_is_given_once_even_to_many_at_once(db: Database) -> None:
    made = await asyncio.gather(
        *(write(db, keys.create_key, "ci", "chat", now=NOW) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(one, str) for one in made) == 1
    assert sum(isinstance(one, DuplicateName) for one in made) == 4


async def test_a_client_has_a_key_of_its_own_and_a_standard_webhooks_secret(db: Database) -> None:
    made = await write(db, clients.create_client, "demo", "https://example.com/hook", NOW)
    assert made.secret.startswith("whsec_")
    assert len(base64.b64decode(made.secret.removeprefix("whsec_"))) == 32
    client = await read(db, clients.by_name, "demo")
    assert (client.callback_url, client.disabled) == ("https://example.com/hook", False)
    key = await read(db, keys.authenticate, made.key)
    assert (key.scope, key.client_id) == ("webhook", client.id)
    with pytest.raises(DuplicateName, match="demo"):
        await write(db, clients.create_client, "demo", None, NOW)


async def test_rotating_ends_the_old_key_and_secret_at_once(db: Database) -> None:
    old = await write(db, clients.create_client, "demo", None, NOW)
    new = await write(db, clients.rotate, "demo", NOW)
    assert new.secret != old.secret
    assert await read(db, keys.authenticate, old.key) is None
    assert (await read(db, keys.authenticate, new.key)).client_id == (await read(db, clients.by_name, "demo")).id


async def test_a_client_is_disabled_and_enabled_again(db: Database) -> None:
    await write(db, clients.create_client, "demo", None, NOW)
    for disabled in (True, False):
        await write(db, clients.set_disabled, "demo", disabled=disabled, now=NOW)
        assert [one.disabled for one in await read(db, clients.list_clients)] == [disabled]


async def test_an_unknown_client_is_named(db: Database) -> None:
    assert await read(db, clients.by_name, "nobody") is None
    for change in (
        write(db, clients.rotate, "nobody", NOW),
        write(db, clients.set_disabled, "nobody", disabled=True, now=NOW),
    ):
        with pytest.raises(UnknownName, match="nobody"):
            await change


async def test_people_are_let_in_and_shut_out(db: Database) -> None:
    somebody = 7_000_000_000  # Telegram's ids are longer than 32 bits
    assert await read(db, people.telegram_user, somebody) is None
    for allowed in (True, False):
        await write(db, people.set_telegram_user, somebody, allowed=allowed, now=NOW)
        assert await read(db, people.telegram_user, somebody) is allowed


async def test_the_last_activity_is_a_message_or_an_answer(db: Database) -> None:
    assert await read(db, ledger.last_activity) is None
    await write(db, inbox.accept, [Incoming("t", "1", "t:1", "hi")], NOW)
    assert await read(db, ledger.last_activity) == NOW
    china = timezone(timedelta(hours=8))
    finished = (NOW + timedelta(minutes=1)).astimezone(china)
    await write(db, ledger.record_usage, ledger.Usage("openai", "m", 1, 0, 1, "stop", NOW, finished, key_name="ci"))
    last = await read(db, ledger.last_activity)
    assert (last, last.tzinfo) == (finished, UTC)


async def test_an_alert_is_raised_once_a_key(db: Database) -> None:
    same = await asyncio.gather(*(write(db, ledger.raise_alert, "idle", "spell 1", "idle!", NOW) for _ in range(5)))
    assert sorted(same) == [False] * 4 + [True]
    assert await write(db, ledger.raise_alert, "idle", "spell 2", "idle!", NOW)
    assert await write(db, ledger.raise_alert, "budget", "spell 1", "spent!", NOW)


@pytest.mark.parametrize("name", ["", "a:b", "a/b", "a b", "ä", "x" * 65])
async def test_a_clients_name_fits_an_address(db: Database, name: str) -> None:
    async with db.write() as session:
        with pytest.raises(InvalidName):
            await clients.create_client(session, name, None, NOW)
