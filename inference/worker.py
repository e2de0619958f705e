"""The worker process: it dials the service, loads what it is told to, and answers until the service hangs up.

    python -m inference.worker SOCKET

llama.cpp may abort its process on a bad model or a bad batch, so nothing else lives in here: no database, no
keys, no network. Whatever goes wrong in the model's thread ends the process; the service starts another one
and hands it the answers that were not finished.
"""

import asyncio
import ctypes
import dataclasses
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog

from inference import protocol as p
from inference import sizing
from inference.cache import Cache
from inference.errors import InferenceError, PromptTooLong
from inference.kvstore import KvStore
from inference.llama import Model, llama_gpu, usable_threads
from inference.pace import Pace
from inference.prompt import Prompter
from inference.protocol import ChatMessage
from inference.requantise import prepare
from inference.sampling import choose, recommended
from inference.scheduler import Scheduler
from inference.sequence import Sequence, as_tokens, common_prefix
from inference.speculation import Drafting
from inference.step import StepLoop
from inference.text import TextStream

log = structlog.get_logger()

PR_SET_PDEATHSIG = 1  # prctl(2)
SWITCH = 2e-4  # seconds after which the socket's thread gives way to the model's; Python's 5 ms are a step's half
STOPPING = 2.3  # seconds until the worker ends although the model's thread still computes

Send = Callable[[p.Report], None]
Soon = Callable[..., Any]


class Line:
    """The way to the service, for any thread. A frame is written by the thread that has it: to wake the socket's
    thread for it would cost the model's a turn of the interpreter at every step."""

    def __init__(self, connection: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        """`connection` does not block."""
        self._connection = connection
        self._loop = loop
        self._lock = threading.Lock()
        self._rest = bytearray()  # what the service has yet to make room for

    def send(self, report: p.Report) -> None:
        frame = p.frame(report)
        with self._lock:
            waits = bool(self._rest)
            self._rest += frame if waits else frame[self._write(frame) :]
            if waits or not self._rest:
                return
        self._loop.call_soon_threadsafe(self._loop.add_writer, self._connection, self._flush)

    def _flush(self) -> None:
        with self._lock:
            del self._rest[: self._write(self._rest)]
            if not self._rest:
                self._loop.remove_writer(self._connection)

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return self._connection.send(data)
        except BlockingIOError:
            return 0
        except OSError:  # the service is gone, and whoever reads from it ends this process
            return len(data)


class Desk:
    """Turns requests into sequences for the loop: templates, tokens, sampling."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._thinks = model.info.thinks
        self._prompter = Prompter(model.chat_template, model.vocabulary, model.context)
        self._background = itertools.count(-1, -1)

    def sequence(self, submit: p.Submit) -> Sequence:
        """A sequence ready to run. Raises InvalidRequest, PromptTooLong."""
        request = submit.request
        prompt = self._prompter.build(request)
        model, room = self._model, self._model.context - len(prompt.tokens)
        thinking = self._thinks and request.thinking is not False
        names = model.metadata("general.architecture"), model.metadata("general.name")
        tokens = [*prompt.tokens, *submit.resume]
        sequence = Sequence(
            id=submit.id,
            tokens=tokens,
            begun=as_tokens(tokens),
            prompt=len(prompt.tokens),
            opening=prompt.opening,
            limit=len(prompt.tokens) + min(room, request.max_tokens or room),
            text=TextStream(stops=request.stop, thinks=self._thinks, thinking=prompt.thinking),
            choice=choose(request.sampling, recommended(*names, thinking=thinking)),
            arrived=time.monotonic(),
            request=request,
            drafting=Drafting(),
            dropped=prompt.dropped,
        )
        for token in submit.resume:  # the text of these is with the asker already
            sequence.said.append(sequence.text.feed(model.vocabulary.piece(token))[1])
        return sequence

    def next_turn(self, ended: Sequence) -> Sequence | None:
        """What the conversation's next prompt will begin with, as a background sequence.

        Templates render an answer differently once it is history (thinking goes), so its cache would be of no
        use from there on. Two different next messages show where the part that is certain ends.
        """
        said = ChatMessage("assistant", "".join(ended.said))
        try:
            one, other = (self._prompter.build(_continued(ended.request, said, text)).tokens for text in ("1", "a"))
        except InferenceError:
            return None
        tokens = one[: common_prefix(as_tokens(one), as_tokens(other))]
        return dataclasses.replace(
            ended, id=next(self._background), tokens=tokens, begun=as_tokens(tokens), prompt=len(tokens),
            limit=len(tokens), background=True, after=as_tokens(ended.tokens[: ended.done]), arrived=time.monotonic(),
            stream=None, admitted=0.0,
        )  # fmt: skip


def _continued(request: p.Request, said: ChatMessage, text: str) -> p.Request:
    messages = (*request.messages, said, ChatMessage("user", text))
    return msgspec.structs.replace(request, messages=messages)


class Worker:
    """One loaded model between the socket and the loop."""

    def __init__(self, model: Model, send: Send, soon: Soon) -> None:
        """`soon`: lets a function run in the socket's thread."""
        config = model.config
        self._desk = Desk(model)
        self._send = send
        self._soon = soon
        scheduler = Scheduler(slots=model.slots, parked=model.parked, shape=model.shape)
        folder = Path(config.kv_dir) if config.kv_dir else None
        limits = {"host_bytes": model.plan.host_cache, "disk_bytes": config.disk_cache}
        store = KvStore(folder, model.fingerprint, **limits)
        pace = Pace(copy=model.warm_up() or 1e-3)
        self.loop = StepLoop(
            model, Cache(model, scheduler, store, pace), scheduler, pace, emit=send, finished=self._finished
        )

    def handle(self, command: p.Command) -> None:
        match command:
            case p.Submit():
                self._submit(command)
            case p.Cancel(sequence_id):
                self.loop.cancel(sequence_id)
            case p.Stop():
                self.loop.stop()
            case p.Load():
                log.warning("a second Load was ignored")

    def _submit(self, submit: p.Submit) -> None:
        try:
            sequence = self._desk.sequence(submit)
        except InferenceError as error:
            self._send(p.Refused(submit.id, str(error), too_long=isinstance(error, PromptTooLong)))
            return
        if len(sequence.tokens) >= sequence.limit and submit.resume:  # the last worker died on the last token
            _, text = sequence.text.flush()
            self._send(p.Step((p.Chunk(submit.id, (), text, "", "length", sequence.usage),)))
            return
        self.loop.submit(sequence)

    def _finished(self, sequence: Sequence) -> None:
        self._soon(self._prepare_next, sequence)

    def _prepare_next(self, sequence: Sequence) -> None:
        if following := self._desk.next_turn(sequence):
            self.loop.submit(following)

    def run(self) -> None:
        """The model's thread. A failure here ends the process: the state of the model is unknown."""
        try:
            self.loop.run()
        except BaseException:
            log.exception("the model's thread failed; this worker ends")
            os._exit(70)


async def _beat(worker: Worker, send: Send) -> None:
    while True:
        send(p.Beat(worker.loop.steps, worker.loop.active, worker.loop.waiting))
        await asyncio.sleep(1)


def _load(config: p.EngineConfig, send: Send) -> Model:
    shown = 0.0

    def progress(fraction: float) -> None:
        nonlocal shown
        if fraction - shown >= 0.05:
            shown = fraction
            send(p.Progress(fraction))

    config = prepare(config)
    shape = sizing.read_shape(Path(config.path))
    wishes = sizing.Wishes(config.context, config.slots, config.kv_type)
    gpu = sizing.read_gpu() if llama_gpu() and config.gpu_layers != 0 else None
    plan = sizing.plan(shape, gpu, sizing.read_ram(), wishes, cores=usable_threads())
    return Model(config, plan, progress)


async def serve(path: str) -> None:
    """Dials the service at a Unix socket and works for it until it hangs up."""
    loop = asyncio.get_running_loop()
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError:  # the service has died since it started this process
        return
    outgoing = connection.dup()
    outgoing.setblocking(False)
    send = Line(outgoing, loop).send
    reader, _writer = await asyncio.open_unix_connection(sock=connection)
    body = await p.read_body(reader)
    if body is None:
        return
    load = p.command_decoder.decode(body)
    assert isinstance(load, p.Load)
    try:
        model = await asyncio.to_thread(_load, load.config, send)
    except InferenceError as error:
        send(p.LoadRefused(str(error)))
        return
    worker = Worker(model, send, loop.call_soon_threadsafe)
    send(p.Loaded(model.info))
    threading.Thread(target=worker.run, name="model", daemon=True).start()
    pulse = asyncio.create_task(_beat(worker, send), name="worker beat")
    while body := await p.read_body(reader):
        command = p.command_decoder.decode(body)
        worker.handle(command)
        if isinstance(command, p.Stop):
            await asyncio.to_thread(worker.loop.stopped.wait, STOPPING)
            break
    pulse.cancel()


def main(path: str) -> None:
    """Runs a worker; returns when the service is gone."""
    sys.setswitchinterval(SWITCH)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the service's to handle
    if sys.platform == "linux":  # one that loads or is stopped would keep the memory that the next service's needs
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    asyncio.run(serve(path))
    os._exit(0)  # the model's thread may be inside llama.cpp, which nothing can interrupt


if __name__ == "__main__":
    main(sys.argv[1])
