"""The commands that look at or change records: keys, webhook clients, people, deliveries, the schema."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from bot.cli.runner import in_database, run, settings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

key = typer.Typer(no_args_is_help=True, help="API keys for programs.")
client = typer.Typer(no_args_is_help=True, help="Webhook clients.")
telegram = typer.Typer(no_args_is_help=True, help="Who may talk to the bot on Telegram.")
outbox = typer.Typer(no_args_is_help=True, help="What is being sent, and what could not be.")
db = typer.Typer(no_args_is_help=True, help="The database: its schema, and what is in it.")

KEYS_SHOWN = 10

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
UserId = Annotated[
    int, typer.Argument(metavar="ID", show_default=False, help="The numeric id that the bot tells strangers.")
]
Key = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        show_default=False,
        help="telegram:123 or webhook:demo:room-1; with a colon at its end all that begin so, such as webhook:demo:",
    ),
]


class Scope(StrEnum):
    """What a key may call: /v1, /webhooks, or everything."""

    chat = "chat"
    webhook = "webhook"
    admin = "admin"


@key.command("new")
def key_new(name: Name, scope: Annotated[Scope, typer.Option(help="What it may call.")] = Scope.chat) -> None:
    """Make a key and print it, alone on the last line. It is shown only once."""
    from bot.clock import now
    from storage import keys

    async def make(session: "AsyncSession") -> str:
        return await keys.create_key(session, name, scope.value, now=now())

    typer.echo(in_database(make))


@key.command("list")
def key_list() -> None:
    """All keys, without their secrets."""
    from storage import keys

    for row in in_database(keys.list_keys):
        state = f"revoked {row.revoked_at:%Y-%m-%d}" if row.revoked_at else "valid"
        typer.echo(f"{row.name:<20}  {row.prefix}…  {row.scope:<8}  {state}")


@key.command("revoke")
def key_revoke(name: Name) -> None:
    """End a key."""
    from bot.clock import now
    from storage import keys

    in_database(lambda session: keys.revoke_key(session, name, now()))
    typer.echo(f"The key {name} is revoked.")


@client.command("new")
def client_new(
    name: Name, callback_url: Annotated[str, typer.Option(help="Where signed replies are posted.")] = ""
) -> None:
    """Make a webhook client; prints its name, key and secret as one JSON object. They are shown only once."""
    import msgspec

    from bot.clock import now
    from bot.web.guard import target
    from storage import clients

    if callback_url:
        target(callback_url, settings().webhooks.allow_hosts)
    made = in_database(lambda session: clients.create_client(session, name, callback_url or None, now()))
    typer.echo(msgspec.json.encode(made).decode())


@client.command("list")
def client_list() -> None:
    """All webhook clients."""
    from storage import clients

    for row in in_database(clients.list_clients):
        typer.echo(f"{row.name:<20}  {'disabled' if row.disabled else 'enabled':<8}  {row.callback_url or '-'}")


@client.command("rotate")
def client_rotate(name: Name) -> None:
    """Give a client a new key and secret; prints them as one JSON object."""
    import msgspec

    from bot.clock import now
    from storage import clients

    typer.echo(msgspec.json.encode(in_database(lambda session: clients.rotate(session, name, now()))).decode())


@client.command("disable")
def client_disable(name: Name) -> None:
    """Refuse a client's messages."""
    _set_disabled(name, disabled=True)


@client.command("enable")
def client_enable(name: Name) -> None:
    """Take a client's messages again."""
    _set_disabled(name, disabled=False)


def _set_disabled(name: str, *, disabled: bool) -> None:
    from bot.clock import now
    from storage import clients

    in_database(lambda session: clients.set_disabled(session, name, disabled=disabled, now=now()))
    typer.echo(f"{name} is {'disabled' if disabled else 'enabled'}.")


@telegram.command("allow")
def telegram_allow(user: UserId) -> None:
    """Let somebody in."""
    _set_person(user, allowed=True)


@telegram.command("deny")
def telegram_deny(user: UserId) -> None:
    """Shut somebody out."""
    _set_person(user, allowed=False)


def _set_person(user: int, *, allowed: bool) -> None:
    from bot.clock import now
    from storage import people

    in_database(lambda session: people.set_telegram_user(session, user, allowed=allowed, now=now()))
    typer.echo(f"{user} may {'talk' if allowed else 'no longer talk'} to the bot.")


@outbox.command("list")
def outbox_list() -> None:
    """Deliveries that are not done: waiting, uncertain, or given up."""
    from storage import outbox as rows

    for row in in_database(rows.unfinished):
        typer.echo(
            f"{row.public_id}  {row.state:<9}  {row.channel}:{row.lane}  tries {row.attempts}  {row.error or ''}"
        )


@outbox.command("replay")
def outbox_replay(delivery: Annotated[str, typer.Argument(metavar="ID", show_default=False)]) -> None:
    """Send a delivery once more, though it may have arrived."""
    from bot.clock import now
    from storage import outbox as rows

    in_database(lambda session: rows.replay(session, delivery, now()))
    typer.echo(f"{delivery} will be sent again.")


@db.command("upgrade")
def db_upgrade() -> None:
    """Bring the database to this version's schema (`serve` does it by itself)."""
    from bot.app import opened_database

    async def upgrade() -> None:
        async with opened_database(settings()):
            pass

    run(upgrade())
    typer.echo("The database is up to date.")


@db.command("check")
def db_check() -> None:
    """Tell whether the database fits this version; changes nothing."""
    from storage import migrations
    from storage.database import Database

    async def check() -> None:
        async with Database(settings().database_url, create=False) as database:
            await migrations.check(database)

    run(check())
    typer.echo("The database is up to date.")


@db.command("forget")
def db_forget(key: Key, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Delete a conversation for good, with what waits for its answer or to be sent, and all KV snapshots on disk.

    What answers took stays in the ledger, without whose they were. A service may be running: where it uses SQLite
    it waits with writing while the file is written anew, for a second or so each 100 MB. On PostgreSQL, autovacuum
    removes what is deleted from the disk, a little later.
    """
    from bot.app import opened_database
    from bot.clock import now
    from bot.housekeeping import forget_snapshots
    from storage import retention
    from storage.retention import Deleted

    found = in_database(lambda session: retention.match(session, key))
    keys = ", ".join(found.keys[:KEYS_SHOWN]) + (", …" if len(found.keys) > KEYS_SHOWN else "")
    typer.echo(
        f"{keys}\n{found.conversations} conversations, closed ones included; {found.messages} messages; "
        f"{found.unanswered} without an answer yet"
    )
    if not yes:
        typer.confirm("Delete all of this for good?", abort=True)

    async def forget() -> Deleted:
        async with opened_database(settings()) as database:
            return await retention.forget(database, key, now())

    snapshots = forget_snapshots(settings().data / "kv")
    deleted = run(forget())
    typer.echo(
        f"Deleted: {deleted.conversations} conversations, {deleted.messages} messages, {snapshots} KV snapshots. "
        "A running service deletes for an hour what it still writes of them; what it has in memory goes when it stops."
    )
