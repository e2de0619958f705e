"""Messages from acceptance to reply: stored once, answered in order, one in flight a conversation."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError

from storage import inbox, models, outbox
from storage.conversations import EARLY, HISTORY, close_conversation, history
from storage.database import Database
from storage.errors import ClaimLost
from storage.inbox import Claim, Draft, Incoming, Reply
from storage.models import Conversation, Inbox, Message, Outbox, Usage
from storage.outbox import NewDelivery

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LEASE = timedelta(seconds=15)
LATER = NOW + timedelta(seconds=20)


def incoming(number: int, key: str = "telegram:1", **changes: str) -> Incoming:
    return Incoming(**{"source": "telegram", "external_id": str(number), "conversation_key": key,
                       "text": f"question {number}", **changes})  # fmt: skip


def reply(content: str = "an answer") -> Reply:
    return Reply(content, "a thought", "embedded", "stop", 12, 4, 7, NOW, NOW + timedelta(seconds=1))


async def accept(db: Database, *messages: Incoming) -> list[int]:
    async with db.write() as session:
        return [row.id for row in await inbox.accept(session, messages, NOW)]


async def claim(db: Database, now: datetime = NOW, owner: str = "a") -> Claim | None:
    async with db.write() as session:
        claims = await inbox.claim(session, owner, now, LEASE, channels=["telegram"])
    return claims[0] if claims else None


async def finish(db: Database, held: Claim, *deliveries: NewDelivery, content: str = "an answer") -> None:
    async with db.write() as session:
        await inbox.finish(session, held, reply(content), deliveries, NOW)


async def state(db: Database, message_id: int) -> inbox.Status:
    async with db.read() as session:
        return await inbox.status(session, message_id)


async def count(db: Database, table: type) -> int:
    async with db.read() as session:
        return await session.scalar(select(func.count()).select_from(table))


async def test_the_same_message_many_times_at_once_is_one_row(db: Database) -> None:
    async def once() -> inbox.Accepted:
        async with db.write() as session:
            (row,) = await inbox.accept(session, [incoming(1, body_hash="abc")], NOW)
            return row

    answers = await asyncio.gather(*(once() for _ in range(12)))
    assert sum(answer.created for answer in answers) == 1
    assert len({answer.public_id for answer in answers}) == 1
    assert answers[0].body_hash == "abc"
    assert await count(db, Inbox) == await count(db, Conversation) == 1


async def test_another_source_may_use_the_same_external_id(db: Database) -> None:
    first, second = await accept(db, incoming(1), incoming(1, source="webhook:demo"))
    assert first != second


async def test_public_ids_are_random_and_lead_to_the_message(db: Database) -> None:
    (message_id,) = await accept(db, incoming(1))
    held = await claim(db)
    assert held.public_id.startswith("msg_")
    assert len(held.public_id) == 28
    async with db.read() as session:
        assert (await inbox.by_public_id(session, held.public_id)).id == message_id
        assert await inbox.by_public_id(session, "msg_unknown") is None


async def test_a_conversation_is_answered_in_order_and_others_do_not_wait(db: Database) -> None:
    first, second, other = await accept(db, incoming(1), incoming(2), incoming(3, "telegram:2"))
    held = await claim(db)
    assert held.id == first
    assert (await claim(db)).id == other
    assert await claim(db) is None
    await finish(db, held)
    assert (await claim(db)).id == second


async def test_claims_at_the_same_moment_are_different_messages(db: Database) -> None:
    ids = await accept(db, *(incoming(n, f"telegram:{n}") for n in range(6)))
    held = [one for one in await asyncio.gather(*(claim(db, owner=str(n)) for n in range(6))) if one]
    while one := await claim(db):
        held.append(one)
    assert sorted(one.id for one in held) == ids


async def test_finish_stores_everything_in_one_transaction(db: Database) -> None:
    (message_id,) = await accept(db, incoming(1, meta='{"chat_id":1}'))
    held = await claim(db)
    assert (held.conversation_key, held.text, held.meta, held.attempts) == (
        "telegram:1",
        "question 1",
        '{"chat_id":1}',
        0,
    )
    await finish(db, held, NewDelivery("telegram", "1", "1", "{}"))
    done = await state(db, message_id)
    assert (done.state, done.error, done.reply.text, done.reply.completion_tokens) == ("done", None, "an answer", 7)
    async with db.read() as session:
        asked, answer = (await session.scalars(select(Message).order_by(Message.id))).all()
        (sent,) = await outbox.unfinished(session)
    assert (asked.role, asked.parent_id, answer.role, answer.parent_id) == ("user", None, "assistant", asked.id)
    assert asked.created_at == NOW
    assert sent.inbox_id == message_id
    assert await count(db, Usage) == 1


async def accept_one_conversation(db: Database) -> int:
    await accept(db, incoming(1))
    return (await claim(db)).conversation_id


async def say(db: Database, conversation: int, number: int) -> None:
    """A question and its answer."""
    async with db.write() as session:
        for role, content in (("user", number), ("assistant", number + 1)):
            session.add(Message(conversation_id=conversation, role=role, content=str(content), created_at=NOW))
            await session.flush()


async def test_history_links_turns_and_leaves_thoughts_out(db: Database) -> None:
    await accept(db, incoming(1), incoming(2))
    for content in ("one", "two"):
        held = await claim(db)
        await finish(db, held, content=content)
    async with db.read() as session:
        turns = await history(session, held.conversation_id)
        parents = (await session.scalars(select(Message.parent_id).order_by(Message.id))).all()
    assert [(turn.role, turn.content) for turn in turns] == [
        ("user", "question 1"), ("assistant", "one"), ("user", "question 2"), ("assistant", "two"),
    ]  # fmt: skip
    assert parents == [None, 1, 2, 3]


async def test_a_long_history_begins_at_the_same_place_for_many_turns(db: Database) -> None:
    conversation = await accept_one_conversation(db)

    async def begins() -> tuple[str, int]:
        async with db.read() as session:
            turns = await history(session, conversation)
        return turns[0].content, len(turns)

    seen = []
    for first in range(0, 480, 2):
        await say(db, conversation, first)
        if first >= 390:
            seen.append(await begins())
    cut = [one for one in seen if int(one[0]) > 0]
    assert len({begin for begin, _ in cut}) <= len(cut) / 4
    assert [int(begin) for begin, _ in seen] == sorted(int(begin) for begin, _ in seen)
    assert all(HISTORY - EARLY <= length <= HISTORY for _, length in seen)
    assert all(int(begin) % 2 == 0 for begin, _ in seen)


async def test_a_closed_conversation_is_followed_by_a_new_one(db: Database) -> None:
    await accept(db, incoming(1))
    async with db.write() as session:
        assert await close_conversation(session, "telegram:1", NOW)
        assert not await close_conversation(session, "telegram:1", NOW)
    await accept(db, incoming(2))
    held = [await claim(db), await claim(db)]
    assert held[0].conversation_id != held[1].conversation_id


async def test_conversations_opened_at_once_are_one(db: Database) -> None:
    await asyncio.gather(*(accept(db, incoming(n)) for n in range(10)))
    assert await count(db, Conversation) == 1


async def test_an_expired_claim_goes_to_another_and_the_first_can_store_nothing(db: Database) -> None:
    (message_id,) = await accept(db, incoming(1))
    stale = await claim(db)
    assert await claim(db) is None
    fresh = await claim(db, LATER, owner="b")
    assert (fresh.id, fresh.fence, fresh.attempts) == (message_id, stale.fence + 1, 0)
    for late in (
        lambda session: inbox.finish(session, stale, reply(), [NewDelivery("telegram", "1", "1", "{}")], LATER),
        lambda session: inbox.fail(session, stale, "no", [NewDelivery("telegram", "1", "1", "{}")], LATER),
        lambda session: inbox.retry(session, stale, LATER, "no"),
    ):
        with pytest.raises(ClaimLost):
            async with db.write() as session:
                await late(session)
    async with db.write() as session:
        assert await inbox.renew(session, [stale], LATER, LEASE) == set()
        await inbox.release(session, stale)
    assert (await state(db, message_id)).state == "claimed"
    assert [await count(db, table) for table in (Message, Outbox, Usage)] == [0, 0, 0]
    await finish(db, fresh)


async def test_a_renewed_claim_is_kept(db: Database) -> None:
    await accept(db, incoming(1))
    held = await claim(db)
    async with db.write() as session:
        assert await inbox.renew(session, [held], NOW + timedelta(seconds=10), LEASE) == {held.id}
    assert await claim(db, LATER) is None


async def test_nothing_is_finished_twice(db: Database) -> None:
    await accept(db, incoming(1))
    held = await claim(db)
    await finish(db, held)
    with pytest.raises(ClaimLost):
        await finish(db, held)
    assert await count(db, Message) == 2


async def test_a_failure_is_told_and_the_next_message_goes_on(db: Database) -> None:
    first, second = await accept(db, incoming(1), incoming(2))
    held = await claim(db)
    async with db.write() as session:
        await inbox.fail(session, held, "too long", [NewDelivery("telegram", "1", "1", "{}")], NOW)
    failed = await state(db, first)
    assert (failed.state, failed.error, failed.reply) == ("failed", "too long", None)
    assert await count(db, Outbox) == 1
    following = await claim(db)
    assert following.id == second
    async with db.read() as session:
        assert await history(session, following.conversation_id) == []


async def test_a_retry_waits_and_holds_its_conversation(db: Database) -> None:
    first, _, other = await accept(db, incoming(1), incoming(2), incoming(3, "telegram:2"))
    held = await claim(db)
    async with db.write() as session:
        await inbox.retry(session, held, NOW + timedelta(seconds=2), "worker died")
    assert (await state(db, first)).error is None  # an error is told only where it is the end
    assert (await claim(db)).id == other
    assert await claim(db) is None
    again = await claim(db, NOW + timedelta(seconds=2))
    assert (again.id, again.attempts) == (first, 1)


async def test_a_released_message_is_as_if_it_had_not_been_tried(db: Database) -> None:
    await accept(db, incoming(1))
    held = await claim(db)
    async with db.write() as session:
        await inbox.set_placeholder(session, held, "55")
        await inbox.release(session, held)
    again = await claim(db)
    assert (again.attempts, again.placeholder) == (0, "55")
    assert again.fence > held.fence


async def test_a_restart_takes_over_at_once_what_was_its_own(db: Database) -> None:
    ids = await accept(db, incoming(1), incoming(2, "telegram:2"), incoming(3, "telegram:3"))
    stale = [await claim(db), await claim(db), await claim(db, owner="other")]
    async with db.write() as session:
        await inbox.release_owned(session, "a")
    assert [(await claim(db)).id for _ in ids[:2]] == ids[:2]
    assert await claim(db) is None
    with pytest.raises(ClaimLost):
        await finish(db, stale[0])


async def test_what_an_adapter_answers_itself_is_recorded_once(db: Database) -> None:
    for expected in (True, False):
        async with db.write() as session:
            said = await inbox.record(session, incoming(1), [NewDelivery("telegram", "1", "1", "help")], NOW)
        assert said is expected
    assert await count(db, Outbox) == 1
    assert await claim(db) is None


async def test_the_database_itself_refuses_a_second_claim_in_a_conversation(db: Database) -> None:
    await accept(db, incoming(1), incoming(2))
    with pytest.raises(IntegrityError):
        async with db.write() as session:
            await session.execute(text("UPDATE inbox SET state = 'claimed'"))


async def test_a_claim_that_loses_the_race_is_none(postgres_db: Database) -> None:
    """Another gateway claims in the same conversation, and has not yet committed."""
    db = postgres_db
    _, second = await accept(db, incoming(1), incoming(2))
    async with db.write() as rival:
        await rival.execute(text("UPDATE inbox SET state = 'claimed' WHERE id = :id"), {"id": second})
        late = asyncio.create_task(claim(db), name="late claim")
        await asyncio.sleep(0.2)
        assert not late.done()
    assert await late is None


async def test_messages_committed_out_of_order_do_not_stop_everybody(postgres_db: Database) -> None:
    """Ids are given before the commit, so of two messages at once the newer one may be visible first."""
    db = postgres_db
    await accept(db, incoming(0))
    await finish(db, await claim(db))
    async with db.write() as slow:
        await inbox.accept(slow, [incoming(1)], NOW)
        newer = asyncio.create_task(accept(db, incoming(2)), name="newer message")
        await asyncio.wait({newer}, timeout=1)  # it may as well wait for its turn
        if newer.done():
            assert await claim(db)
    await newer
    await accept(db, incoming(3, "telegram:elsewhere"))
    for _ in range(3):  # whoever died in between, all three are to be had in the end
        held = await claim(db, LATER)
        assert held, "nothing can be claimed"
        await finish(db, held)


async def test_a_nul_in_a_text_breaks_nothing_on_sqlite(sqlite_db: Database) -> None:
    await accept(sqlite_db, incoming(1, text="nul \0 byte"))
    assert (await claim(sqlite_db)).text == "nul \ufffd byte"


async def test_a_nul_in_a_text_breaks_nothing_on_postgres(postgres_db: Database) -> None:
    await accept(postgres_db, incoming(1, text="nul \0 byte"))
    assert (await claim(postgres_db)).text == "nul \ufffd byte"


async def checkpoint(db: Database, held: Claim, *tokens: int, text: str) -> None:
    async with db.write() as session:
        await inbox.checkpoint(session, held, Draft("embedded", tokens, text, "thought"))


async def test_a_draft_is_handed_to_whoever_takes_the_message_up_and_goes_with_the_end(db: Database) -> None:
    await accept(db, incoming(1))
    held = await claim(db)
    assert held.draft is None
    await checkpoint(db, held, 1, 2, text="Once")
    await checkpoint(db, held, 1, 2, 150_000, text="Once upon")
    fresh = await claim(db, LATER)
    assert fresh.draft == Draft("embedded", (1, 2, 150_000), "Once upon", "thought")
    await checkpoint(db, held, 9, text="what the one before had")
    async with db.write() as session:
        await inbox.release(session, fresh)
    fresh = await claim(db, LATER)
    assert fresh.draft.text == "Once upon"
    await finish(db, fresh)
    await checkpoint(db, fresh, 1, text="late")
    assert await count(db, models.Draft) == 0


async def test_a_failed_try_begins_anew(db: Database) -> None:
    await accept(db, incoming(1))
    held = await claim(db)
    await checkpoint(db, held, 1, text="Once")
    async with db.write() as session:
        await inbox.retry(session, held, NOW, "the worker died")
    assert (await claim(db)).draft is None


async def test_what_is_held_is_not_taken_from_oneself(db: Database) -> None:
    """The database was away, and the lease ran out; the answer is still being written."""
    ids = await accept(db, incoming(1), incoming(2, "telegram:2"))
    await claim(db)
    async with db.write() as session:
        claims = await inbox.claim(session, "a", LATER, LEASE, channels=["telegram"], limit=5, held=ids[:1])
    assert [one.id for one in claims] == ids[1:]


async def test_several_are_claimed_at_once_but_one_of_a_conversation(db: Database) -> None:
    ids = await accept(db, incoming(1), incoming(2), incoming(3, "telegram:2"), incoming(4, "telegram:3"))
    async with db.write() as session:
        claims = await inbox.claim(session, "a", NOW, LEASE, channels=["telegram"], limit=2)
    assert [one.id for one in claims] == [ids[0], ids[2]]


async def test_a_placeholder_can_only_be_noted_by_who_holds_the_message(db: Database) -> None:
    await accept(db, incoming(1))
    stale = await claim(db)
    await claim(db, LATER)
    with pytest.raises(ClaimLost):
        async with db.write() as session:
            await inbox.set_placeholder(session, stale, "55")


async def test_the_same_message_twice_in_a_group_is_one_row(db: Database) -> None:
    async with db.write() as session:
        rows = await inbox.accept(session, [incoming(1), incoming(2), incoming(1, text="again")], NOW)
    assert [row.created for row in rows] == [True, True, False]
    assert rows[0].id == rows[2].id
    assert (await claim(db)).text == "question 1"


async def test_a_group_opens_its_conversations_once_and_keeps_its_order(db: Database) -> None:
    ids = await accept(db, *(incoming(n, f"telegram:{n % 3}") for n in range(30)))
    assert ids == sorted(ids)
    assert await count(db, Conversation) == 3
    async with db.read() as session:
        assert list(await session.scalars(select(Inbox.external_id).order_by(Inbox.id))) == [str(n) for n in range(30)]


async def test_only_what_this_gateway_can_reply_to_is_claimed(db: Database) -> None:
    await accept(
        db, incoming(1), incoming(2, "webhook:demo:a", source="webhook:demo"), incoming(3, "x", source="webhooks")
    )
    async with db.write() as session:
        claims = await inbox.claim(session, "a", NOW, LEASE, channels=["webhook"], limit=5)
    assert [one.source for one in claims] == ["webhook:demo"]
