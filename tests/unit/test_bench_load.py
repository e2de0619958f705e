"""The load generator against a strict little server: what it notes of a stream, and the figures made of it."""

import asyncio
import json
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench import engines, load
from bench.load import Answer, Burst, Chat, Intrusion, Record, Soak, Target, User

USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
BUSY = {"message": "busy"}


def event(**body: object) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def delta(**fields: object) -> bytes:
    return event(choices=[{"index": 0, "delta": fields, "finish_reason": None}], usage=None)


ROLE, DONE = delta(role="assistant", content=""), b"data: [DONE]\n\n"
FINISH = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
COUNTED = FINISH + event(choices=[], usage=USAGE) + DONE
HELLO = ROLE + delta(content='He said "content":"x", ') + b": waiting\n\n" + delta(content="é 世\n") + COUNTED


class Server:
    """Says what its script holds, in pieces; refuses whatever OpenAI's API would not take."""

    def __init__(self, *pieces: bytes, pause: float = 0.02, status: int = 200, breaks: bool = False) -> None:
        self.pieces, self.pause, self.status, self.breaks = pieces, pause, status, breaks
        self.bodies: list[dict] = []

    async def complete(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == "Bearer key"
        body = await request.json()
        self.bodies.append(body)
        roles = [message["role"] for message in body["messages"] if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert all(message["content"] for message in body["messages"])
        assert body["stream"] is True
        assert body["stream_options"] == {"include_usage": True}
        assert isinstance(body["max_tokens"], int)
        if self.status != 200:
            return web.json_response({"error": BUSY}, status=self.status)
        return await self._stream(request)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in self.pieces:
            await response.write(piece)
            await asyncio.sleep(self.pause)
        if self.breaks:
            request.transport.abort()
        return response


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Server], Awaitable[Target]]]:
    """Starts servers, and stops them when the test is over."""
    running: list[TestServer] = []

    async def start(server: Server) -> Target:
        app = web.Application()
        app.add_routes([web.post("/v1/chat/completions", server.complete)])
        running.append(TestServer(app))
        await running[-1].start_server()
        url = str(running[-1].make_url("")).rstrip("/")
        return Target(url, "m", {"Authorization": "Bearer key"}, {"ignore_eos": True})

    yield start
    for server in running:
        await server.close()


async def ask(target: Target, user: User) -> list[Record]:
    async with aiohttp.ClientSession() as session:
        return await load.act(session, target, 0, user)


QUESTION = User(["Hello?"], [0], 8)


@pytest.mark.parametrize("size", [1, 2, 7, 50, 10_000])
def test_events_are_found_wherever_the_stream_is_cut(size: int) -> None:
    answer = Answer(whole=True)
    for number, start in enumerate(range(0, len(HELLO), size)):
        answer.feed(HELLO[start : start + size], float(number))
    assert answer.outcome() == {"text": 'He said "content":"x", é 世\n', "tokens": 5, "prompt": 11, "error": ""}
    assert answer.pieces == 2
    assert len(answer.arrivals) == (1 if size >= len(HELLO) else 2)


def test_without_its_text_an_answer_still_has_its_counts() -> None:
    answer = Answer(whole=False)
    answer.feed(delta(content="x") * 50 + COUNTED, 0.0)
    outcome = answer.outcome()
    assert (outcome["tokens"], outcome["prompt"], outcome["error"]) == (5, 11, "")
    assert answer.pieces == 50


@pytest.mark.parametrize(
    "first", [b'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n', ROLE, b": waiting\n\n"]
)
def test_what_carries_no_text_is_no_arrival(first: bytes) -> None:
    answer = Answer(whole=False)
    answer.feed(first + FINISH, 1.0)
    assert answer.arrivals == []


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_json_may_have_spaces_and_lines_may_end_in_cr(separators: tuple[str, str]) -> None:
    answer = Answer(whole=True)
    body = json.dumps({"choices": [{"delta": {"content": "hi"}}]}, separators=separators).encode()
    answer.feed(b"data:" + body + b"\r\n\r\ndata: [DONE]\r\n\r\n", 1.0)
    assert answer.arrivals == [1.0]
    assert answer.outcome() == {"text": "hi", "tokens": 1, "prompt": 0, "error": ""}


async def test_a_stream_in_odd_pieces_is_timed_and_read(serve) -> None:
    pieces = [HELLO[start : start + 61] for start in range(0, len(HELLO), 61)]
    user = User(["Hello?"], [0], 8, remembers=True)
    (record,) = await ask(await serve(Server(*pieces)), user)
    assert (record.text, record.tokens, record.prompt, record.error) == ('He said "content":"x", é 世\n', 5, 11, "")
    assert len(record.arrivals) == 2
    assert record.start < record.arrivals[0] < record.arrivals[1] <= record.end
    assert record.first - record.start >= 0.02


async def test_reasoning_is_the_first_token_but_no_text_of_the_answer(serve) -> None:
    server = Server(ROLE, delta(reasoning_content="Hm."), delta(content="Yes."), FINISH + DONE)
    (record,) = await ask(await serve(server), User(["Hello?"], [0], 8, remembers=True))
    assert record.text == "Yes."
    assert record.first - record.start >= 0.02
    assert record.tokens == len(record.arrivals) == 2  # no usage came: the events are counted


async def test_several_tokens_at_once_make_one_gap(serve) -> None:
    server = Server(delta(content="one two three "), delta(content="four ") + delta(content="five"), COUNTED)
    (record,) = await ask(await serve(server), QUESTION)
    assert record.tokens == 5
    assert len(record.gaps) == 1


async def test_an_empty_answer_had_its_first_token_at_its_end(serve) -> None:
    (record,) = await ask(await serve(Server(ROLE, COUNTED)), QUESTION)
    assert (record.arrivals, record.error, record.first) == ([], "", record.end)


async def test_a_refusal_is_told_with_its_reason(serve) -> None:
    (record,) = await ask(await serve(Server(status=503)), User(["a", "b"], [0, 0], 8))
    assert record.error.startswith("HTTP 503:")
    assert "busy" in record.error
    assert math.isnan(record.first)


@pytest.mark.parametrize("breaks", [True, False])
async def test_a_stream_that_breaks_off_is_an_error_with_what_had_come(serve, breaks: bool) -> None:
    (record,) = await ask(await serve(Server(ROLE, delta(content="a"), delta(content="b"), breaks=breaks)), QUESTION)
    assert record.error
    assert record.tokens == len(record.arrivals) == 2


async def test_an_error_within_the_stream_is_told(serve) -> None:
    (record,) = await ask(await serve(Server(delta(content="a"), event(error=BUSY) + DONE)), QUESTION)
    assert json.loads(record.error) == BUSY


async def test_a_server_that_is_not_there_is_an_error() -> None:
    (record,) = await ask(Target("http://127.0.0.1:1", "m"), QUESTION)
    assert "Connect" in record.error


async def test_a_conversation_goes_back_whole_and_other_questions_alone(serve) -> None:
    server = Server(HELLO)
    chat = User(["a", "b"], [0, 0], 8, system="Be kind.", remembers=True, unending=True)
    assert [record.turn for record in await ask(await serve(server), chat)] == [0, 1]
    assert [message["content"] for message in server.bodies[1]["messages"]] == [
        "Be kind.", "a", 'He said "content":"x", é 世\n', "b",
    ]  # fmt: skip
    assert server.bodies[1]["ignore_eos"] is True
    await ask(await serve(server), User(["a", "b"], [0, 0], 8))
    assert [message["content"] for message in server.bodies[3]["messages"]] == ["b"]
    assert "ignore_eos" not in server.bodies[3]


async def test_users_in_several_processes_begin_together(serve) -> None:
    server = Server(delta(content="a"), COUNTED)
    users = Burst(prompt=5, tokens=3).users(load.USERS_A_PROCESS + 1, seed=1)
    records = await load.play(await serve(server), users)
    assert sorted(record.user for record in records) == list(range(len(users)))
    assert not any(record.error for record in records)
    starts = [record.start for record in records]
    assert max(starts) - min(starts) < 1
    assert {body["max_tokens"] for body in server.bodies} == {3}


@pytest.mark.parametrize("workload", [Burst(), Chat(), Intrusion(), Soak()])
def test_workloads_are_the_same_each_time_and_differ_by_seed(workload: load.Workload) -> None:
    users = workload.users(4, seed=7)
    assert users == workload.users(4, seed=7)
    assert users != workload.users(4, seed=8)
    assert len({user.questions[0].split()[0] for user in Burst().users(64, seed=7)}) == 64


def test_chats_share_their_system_prompt_and_start_within_a_second() -> None:
    users = Chat(system=400, turns=3).users(8, seed=1)
    assert len({user.system for user in users}) == 1
    assert 400 <= len(users[0].system.split()) <= 420
    assert all(0 <= pause < 1 for user in users for pause in user.pauses)
    questions = [question for user in users for question in user.questions]
    assert len(set(questions)) == 24


def record(user: int = 0, turn: int = 0, *, start: float = 0.0, arrivals: tuple[float, ...] = (), **more) -> Record:
    end = arrivals[-1] if arrivals else start
    return Record(user, turn, more.pop("group", ""), start, end, arrivals, more.pop("tokens", len(arrivals)), **more)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 5), (0.95, 10), (0.99, 10), (0.1, 1), (1.0, 10)])
def test_percentiles_are_values_that_occurred(share: float, expected: int) -> None:
    assert engines.percentile([10, 1, 9, 2, 8, 3, 7, 4, 6, 5], share) == expected
    assert math.isnan(engines.percentile([], share))


def test_the_figures_of_a_run() -> None:
    records = [
        record(0, 0, start=10, arrivals=(11.0, 11.5, 12.0), tokens=7),
        record(1, 0, start=10.5, arrivals=(12.5, 14.5)),
        record(0, 1, start=13, arrivals=(13.25, 13.5), prompt=40),
        record(1, 1, start=14.5, error="HTTP 503"),
        record(2, 0, start=12, arrivals=(16.0, 19.0), group="intruder"),
    ]
    figures = engines.summary(records)
    assert figures["tok/s"] == pytest.approx((7 + 2 + 2) / 4.5)
    assert (figures["TTFT p50, s"], figures["TTFT p95, s"]) == (1.0, 2.0)
    assert (figures["later TTFT p50, s"], figures["intruder TTFT, s"]) == (0.25, 4.0)
    assert (figures["gap p50, ms"], figures["gap max, ms"]) == (500.0, 2000.0)
    assert figures["still reading then"] == 0
    assert (figures["requests"], figures["errors"], figures["prompt tokens"]) == (5, 1, 10)


def test_growth_compares_the_last_quarter_with_the_second() -> None:
    assert engines.growth({"server": [50, 90, 100, 100, 100, 104, 110, 110]}) == {
        "server: MiB, 2nd quarter": 100, "server: MiB, last quarter": 110, "server: last / 2nd": 1.1,
    }  # fmt: skip
    assert engines.growth({"server": [1.0, 2.0]}) == {}


async def test_memory_is_sampled_while_something_runs() -> None:
    async with engines.memory_of({"me": os.getpid()}, every=0.01) as samples:
        await asyncio.sleep(0.1)
    assert len(samples["me"]) > 3
    assert all(10 < value < 10_000 for value in samples["me"])


def test_a_table_shows_medians_and_the_ratio_to_llama_server() -> None:
    plan = engines.Plan("", Burst(), (4,), 4, ("tok/s", "errors"))
    rates = {"dswbot": (10.0, 40.0, 30.0), "llama-server": (20.0, 10.0, 15.0)}
    rows = [
        {"server": name, "clients": 4, "round": turn, "tok/s": rate, "errors": 0}
        for name, values in rates.items()
        for turn, rate in enumerate(values)
    ]
    lines = [line.split() for line in engines.table(["dswbot", "llama-server"], plan, rows).splitlines()]
    assert lines == [
        ["clients", "dswbot", "ratio", "llama-server"],
        ["4", "tok/s", "30", "2.00", "15"],
        ["4", "errors", "0", "-", "0"],
    ]
