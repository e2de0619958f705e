"""Plays scripted users against any server with OpenAI's streaming chat completions, and notes what arrived when.

The users live in processes of their own (`python -m bench.load`, one for each 16 users), so they share no
interpreter with what is measured; CLOCK_MONOTONIC is one clock for all processes of a host. While an answer
streams, its events are only searched for text; their JSON is read when it is over. What one read of the socket
brings is one arrival: several tokens in one event, or several events at once, count as one gap. Each request has
a connection of its own, so that no server is judged by its handling of idle ones.

Needs nothing but aiohttp: it runs where the project is not installed.
"""

import asyncio
import gc
import json
import math
import re
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

import aiohttp

ROOT = Path(__file__).parent.parent
USERS_A_PROCESS = 16
PATIENCE = 900.0  # seconds that one request may take
TEXT = re.compile(rb'content":\s*"[^"]')  # of content or reasoning_content; within a text the quote has a backslash
SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}  # llama.cpp's defaults, for everybody
VOCABULARY = """
time year people way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work government number night point home water room mother area money
story fact month lot right study book eye job word business issue side kind head house service friend father power hour
game line end member law car city community name president team minute idea kid body information back parent face
bridge train paper letter color light sound voice table kitchen bread apple horse bird fish stone gold silver cloud rain
walk find keep carry build write read listen follow remember begin leave turn hold bring learn teach grow
"""
WORDS = VOCABULARY.split()  # each is one token to SmolLM2 and to Qwen


@dataclass(frozen=True, slots=True)
class Target:
    """A server to ask. `unending`: what makes it generate on after the end of an answer, where it can."""

    url: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)
    unending: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class User:
    """Asks one question after the other, each so many seconds after the last answer."""

    questions: Sequence[str]
    pauses: Sequence[float]
    tokens: int
    system: str = ""
    remembers: bool = False  # sends the whole conversation each time
    unending: bool = False
    group: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One request. Times are CLOCK_MONOTONIC's; `tokens` were generated, as the server says or else as events."""

    user: int
    turn: int
    group: str
    start: float
    end: float
    arrivals: Sequence[float]
    tokens: int
    prompt: int = 0
    text: str = ""
    error: str = ""

    @property
    def first(self) -> float:
        """When the first token came; of an empty answer that is its end."""
        return self.arrivals[0] if self.arrivals else math.nan if self.error else self.end

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)]


class Answer:
    """A streamed answer, taken as bytes. All events are kept where its text is wanted, else only the last ones."""

    def __init__(self, *, whole: bool) -> None:
        self.arrivals: list[float] = []
        self.pieces = 0
        self._tail = b""
        self._events: deque[bytes] = deque(maxlen=None if whole else 4)

    def feed(self, data: bytes, now: float) -> None:
        *lines, self._tail = (self._tail + data).split(b"\n")
        before = self.pieces
        for line in lines:
            if line.startswith(b"data:"):
                self.pieces += TEXT.search(line) is not None
                self._events.append(line)
        if self.pieces > before:
            self.arrivals.append(now)

    def outcome(self) -> dict[str, object]:
        """The text, the tokens and what went wrong, as a Record has them."""
        text, usage, error = "", None, "the stream ended without [DONE]"
        for event in self._events:
            payload = event[5:].strip()
            if payload == b"[DONE]":
                return self._found(text, usage, "")
            body = json.loads(payload)
            if "error" in body:
                return self._found(text, usage, json.dumps(body["error"]))
            usage = body.get("usage") or usage
            for choice in body.get("choices", ()):
                text += choice["delta"].get("content") or ""
        return self._found(text, usage, error)

    def _found(self, text: str, usage: Mapping[str, int] | None, error: str) -> dict[str, object]:
        counts = usage or {"completion_tokens": self.pieces, "prompt_tokens": 0}
        tokens, prompt = counts["completion_tokens"], counts["prompt_tokens"]
        return {"text": text, "tokens": tokens, "prompt": prompt, "error": error}


async def ask(session: aiohttp.ClientSession, target: Target, body: Mapping[str, object], answer: Answer) -> str:
    """Takes in one answer; gives back what went wrong."""
    try:
        async with session.post(f"{target.url}/v1/chat/completions", json=body, headers=target.headers) as response:
            if response.status != 200:
                return f"HTTP {response.status}: {(await response.text())[:300]}"
            async for data in response.content.iter_any():
                answer.feed(data, time.monotonic())
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


async def act(session: aiohttp.ClientSession, target: Target, number: int, user: User) -> list[Record]:
    """One user's requests; the first that fails is the last."""
    records: list[Record] = []
    opening = [{"role": "system", "content": user.system}] if user.system else []
    history = list(opening)
    common = {"model": target.model, "stream": True, "stream_options": {"include_usage": True}, **SAMPLING}
    common |= {"max_tokens": user.tokens} | (target.unending if user.unending else {})
    for turn, (question, pause) in enumerate(zip(user.questions, user.pauses, strict=True)):
        await asyncio.sleep(pause)
        history = [*(history if user.remembers else opening), {"role": "user", "content": question}]
        answer, start = Answer(whole=user.remembers), time.monotonic()
        failure = await ask(session, target, {**common, "messages": history}, answer)
        end, outcome = time.monotonic(), answer.outcome()
        outcome["error"] = failure or outcome["error"]
        records.append(Record(number, turn, user.group, start, end, answer.arrivals, **outcome))
        if outcome["error"]:
            break
        history.append({"role": "assistant", "content": outcome["text"]})
    return records


async def _act_all(target: Target, users: Mapping[int, User], begin: float) -> list[Record]:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await asyncio.sleep(begin - time.monotonic())
        acts = [act(session, target, number, user) for number, user in users.items()]
        return [record for records in await asyncio.gather(*acts) for record in records]


def main() -> None:
    """A process of users: reads who they are, says that it is ready, reads when to begin, writes the records."""
    plan = json.loads(sys.stdin.readline())
    target = Target(**plan["target"])
    users = {int(number): User(**user) for number, user in plan["users"].items()}
    gc.disable()  # no pause of its own in the middle of a measurement
    print("ready", flush=True)
    records = asyncio.run(_act_all(target, users, float(sys.stdin.readline())))
    json.dump([asdict(record) for record in records], sys.stdout)


async def play(target: Target, users: Sequence[User]) -> list[Record]:
    """All users from the same moment on, in as many processes as they need."""
    count = math.ceil(len(users) / USERS_A_PROCESS)
    shares = [dict(list(enumerate(users))[first::count]) for first in range(count)]
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE, "cwd": ROOT}
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.load", **pipes) for _ in shares]
    try:
        for process, share in zip(processes, shares, strict=True):
            plan = {"target": asdict(target), "users": {number: asdict(user) for number, user in share.items()}}
            process.stdin.write(json.dumps(plan).encode() + b"\n")
        for process in processes:
            await process.stdout.readline()
        begin = f"{time.monotonic() + 0.1}\n".encode()
        outputs = await asyncio.gather(*(process.communicate(begin) for process in processes))
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return [Record(**record) for output, _ in outputs for record in json.loads(output)]


@dataclass(frozen=True, slots=True)
class Burst:
    """Everybody comes at once with one request; no two prompts are alike, from the first word on."""

    prompt: int = 128
    tokens: int = 64

    def users(self, count: int, seed: int) -> list[User]:
        random = Random(seed)
        return [User([f"{n + 1} {_prose(random, self.prompt)}"], [0], self.tokens, unending=True) for n in range(count)]

    @property
    def room(self) -> int:
        return self.prompt + self.tokens


@dataclass(frozen=True, slots=True)
class Chat:
    """People who talk to one assistant, and think for up to a second before they answer."""

    system: int = 400
    turns: int = 3
    tokens: int = 32

    def users(self, count: int, seed: int) -> list[User]:
        random = Random(seed)
        system = f"You are a friendly assistant and you know about {_prose(random, self.system)}"
        return [self._user(random, system) for _ in range(count)]

    def _user(self, random: Random, system: str) -> User:
        questions = [_prose(random, random.randint(20, 30)) for _ in range(self.turns)]
        pauses = [random.random() for _ in questions]
        return User(questions, pauses, self.tokens, system=system, remembers=True)

    @property
    def room(self) -> int:
        return self.system + self.turns * (40 + self.tokens)


@dataclass(frozen=True, slots=True)
class Intrusion:
    """People read long answers to short prompts; after two seconds somebody comes with a very long prompt."""

    prompt: int = 7800
    tokens: int = 384

    def users(self, count: int, seed: int) -> list[User]:
        random = Random(seed)
        readers = Burst(prompt=24, tokens=self.tokens).users(count, seed)
        return [*readers, User([_prose(random, self.prompt)], [2], 16, unending=True, group="intruder")]

    @property
    def room(self) -> int:
        return self.prompt + 16


@dataclass(frozen=True, slots=True)
class Soak:
    """Short requests, one after the other for each of those who ask."""

    requests: int = 400
    tokens: int = 16

    def users(self, count: int, seed: int) -> list[User]:
        random = Random(seed)
        each = math.ceil(self.requests / count)
        return [User([_prose(random, 24) for _ in range(each)], [0] * each, self.tokens) for _ in range(count)]

    @property
    def room(self) -> int:
        return 24 + self.tokens


Workload = Burst | Chat | Intrusion | Soak


def _prose(random: Random, words: int) -> str:
    return f"{' '.join(random.choices(WORDS, k=words))}. Tell a long story."


if __name__ == "__main__":
    main()
