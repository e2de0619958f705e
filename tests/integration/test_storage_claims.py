"""The inbox against a model of it, in whatever order things happen."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, select

from storage import inbox
from storage.database import Database
from storage.errors import ClaimLost
from storage.inbox import Claim, Incoming, Reply
from storage.models import Inbox, Message
from tests.integration.conftest import emptied

START = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = timedelta(seconds=10)
CONVERSATIONS = st.sampled_from(["a", "b", "c"])
SECONDS = st.integers(0, 12)


@dataclass
class Row:
    """What the model knows of a message."""

    id: int
    conversation: str
    state: str = "queued"
    fence: int = 0
    attempts: int = 0
    not_before: datetime = START
    lease_until: datetime = START


def inbox_machine(loop: asyncio.Runner, db: Database) -> type[RuleBasedStateMachine]:
    class InboxMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.now = START
            self.rows: list[Row] = []
            self.claims: list[Claim] = []

        @initialize()
        def begin_with_empty_tables(self) -> None:
            loop.run(emptied(db))

        def in_transaction(self, work, *args):
            async def transaction():
                async with db.write() as session:
                    return await work(session, *args)

            return loop.run(transaction())

        def holds(self, claim: Claim) -> bool:
            row = self.row(claim.id)
            return row.state == "claimed" and row.fence == claim.fence

        def row(self, identifier: int) -> Row:
            return next(row for row in self.rows if row.id == identifier)

        def expected(self) -> Row | None:
            """The oldest that is free and due, with nothing earlier of its conversation unfinished."""
            seen: set[str] = set()
            for row in self.rows:
                if row.state in ("queued", "claimed") and row.conversation not in seen:
                    seen.add(row.conversation)
                    free = row.state == "queued" or row.lease_until <= self.now
                    if free and row.not_before <= self.now:
                        return row
            return None

        @rule(conversation=CONVERSATIONS)
        def accept(self, conversation: str) -> None:
            message = Incoming("test", str(len(self.rows)), conversation, "hello")
            (accepted,) = self.in_transaction(inbox.accept, [message], self.now)
            assert accepted.created
            self.rows.append(Row(accepted.id, conversation))

        @precondition(lambda self: self.rows)
        @rule(data=st.data(), conversation=CONVERSATIONS)
        def accept_again(self, data: st.DataObject, conversation: str) -> None:
            number = data.draw(st.integers(0, len(self.rows) - 1))
            again = Incoming("test", str(number), conversation, "x")
            (accepted,) = self.in_transaction(inbox.accept, [again], self.now)
            assert not accepted.created
            assert accepted.id == self.rows[number].id

        @rule()
        def claim(self) -> None:
            row = self.expected()
            claims = self.in_transaction(partial(inbox.claim, channels=["test"]), "me", self.now, LEASE)
            assert [got.id for got in claims] == ([row.id] if row else [])
            for got in claims:
                row.state, row.lease_until = "claimed", self.now + LEASE
                row.fence += 1
                assert (got.fence, got.attempts) == (row.fence, row.attempts)
                self.claims.append(got)

        @rule(seconds=SECONDS)
        def time_passes(self, seconds: int) -> None:
            self.now += timedelta(seconds=seconds)

        def end(self, claim: Claim, state: str, work, *args) -> bool:
            """Ends a claim by `work`, which must succeed for whoever holds it and for nobody else."""
            held = self.holds(claim)
            try:
                self.in_transaction(work, claim, *args)
            except ClaimLost:
                assert not held
                return False
            assert held
            self.row(claim.id).state = state
            return True

        @precondition(lambda self: self.claims)
        @rule(data=st.data())
        def finish(self, data: st.DataObject) -> None:
            reply = Reply("yes", None, "m", "stop", 1, 0, 1, self.now, self.now)
            self.end(data.draw(st.sampled_from(self.claims)), "done", inbox.finish, reply, [], self.now)

        @precondition(lambda self: self.claims)
        @rule(data=st.data())
        def fail(self, data: st.DataObject) -> None:
            self.end(data.draw(st.sampled_from(self.claims)), "failed", inbox.fail, "no", [], self.now)

        @precondition(lambda self: self.claims)
        @rule(data=st.data(), seconds=SECONDS)
        def retry(self, data: st.DataObject, seconds: int) -> None:
            claim, at = data.draw(st.sampled_from(self.claims)), self.now + timedelta(seconds=seconds)
            if self.end(claim, "queued", inbox.retry, at, "again"):
                self.row(claim.id).not_before = at
                self.row(claim.id).attempts = claim.attempts + 1

        @precondition(lambda self: self.claims)
        @rule(data=st.data())
        def release(self, data: st.DataObject) -> None:
            claim = data.draw(st.sampled_from(self.claims))
            self.in_transaction(inbox.release, claim)
            if self.holds(claim):
                self.row(claim.id).state = "queued"

        @precondition(lambda self: self.claims)
        @rule(data=st.data())
        def renew(self, data: st.DataObject) -> None:
            claim = data.draw(st.sampled_from(self.claims))
            kept = self.in_transaction(inbox.renew, [claim], self.now, LEASE)
            assert kept == ({claim.id} if self.holds(claim) else set())
            if self.holds(claim):
                self.row(claim.id).lease_until = self.now + LEASE

        @rule()
        def restart(self) -> None:
            self.in_transaction(inbox.release_owned, "me")
            for row in self.rows:
                row.state = "queued" if row.state == "claimed" else row.state

        @invariant()
        def the_tables_agree(self) -> None:
            async def look():
                async with db.read() as session:
                    rows = (await session.execute(select(Inbox.state, Inbox.attempts).order_by(Inbox.id))).all()
                    return [tuple(row) for row in rows], await session.scalar(select(func.count(Message.id)))

            states, messages = loop.run(look())
            assert states == [(row.state, row.attempts) for row in self.rows]
            assert messages == 2 * sum(row.state == "done" for row in self.rows)
            flying = [row.conversation for row in self.rows if row.state == "claimed"]
            assert len(flying) == len(set(flying))

    return InboxMachine


def test_every_history_of_the_inbox_is_the_models(db_url: str) -> None:
    with asyncio.Runner() as loop:
        db = Database(db_url)
        loop.run(db.__aenter__())
        try:
            run_state_machine_as_test(
                inbox_machine(loop, db),
                settings=settings(
                    max_examples=20, stateful_step_count=25, deadline=None, derandomize=True,
                    suppress_health_check=list(HealthCheck),
                ),
            )  # fmt: skip
        finally:
            loop.run(db.__aexit__(None, None, None))
