"""The worker process: it dials the service, loads what it is told to, and answers until the service hangs up.

    python -m inference.worker SOCKET

llama.cpp may abort its process on a bad model or a bad batch, so nothing else lives in here: no database, no
keys, no network. Whatever goes wrong in the model's thread ends the process; the service starts another one
and hands it the answers that were not finished.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import structlog

from inference import protocol as p
from inference.errors import InferenceError, PromptTooLong
from inference.llama import Model
from inference.prompt import Prompter
from inference.requantise import prepare
from inference.sampling import choose, recommended
from inference.sequence import Sequence
from inference.step import StepLoop
from inference.text import TextStream

log = structlog.get_logger()

Send = Callable[[p.Report], None]


class Desk:
    """Turns requests into sequences for the loop: templates, tokens, samplers."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._thinks = model.info.thinks
        self._prompter = Prompter(model.chat_template, model.vocabulary, model.context)

    def sequence(self, submit: p.Submit) -> Sequence:
        """A sequence ready to run. Raises InvalidRequest, PromptTooLong."""
        request = submit.request
        tokens, dropped, opened = self._prompter.build(request)
        model, room = self._model, self._model.context - len(tokens)
        thinking = self._thinks and request.thinking is not False
        names = model.metadata("general.architecture"), model.metadata("general.name")
        choice = choose(request.sampling, recommended(*names, thinking=thinking))
        sequence = Sequence(
            id=submit.id,
            tokens=[*tokens, *submit.resume],
            prompt=len(tokens),
            limit=len(tokens) + min(room, request.max_tokens or room),
            text=TextStream(stops=request.stop, thinks=self._thinks, thinking=opened),
            sampler=model.sampler(choice),
            arrived=time.monotonic(),
            dropped=dropped,
        )
        for token in submit.resume:  # the text of these is with the asker already
            sequence.text.feed(model.vocabulary.piece(token))
            sequence.sampler.accept(token)
        return sequence


class Worker:
    """One loaded model between the socket and the loop."""

    def __init__(self, model: Model, send: Send) -> None:
        self._desk = Desk(model)
        self._send = send
        self.loop = StepLoop(model, send)

    def handle(self, command: p.Command) -> None:
        match command:
            case p.Submit():
                self._submit(command)
            case p.Cancel(sequence_id):
                self.loop.cancel(sequence_id)
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

    return Model(prepare(config), progress)


async def serve(path: str) -> None:
    """Dials the service at a Unix socket and works for it until it hangs up."""
    reader, writer = await asyncio.open_unix_connection(path)
    loop = asyncio.get_running_loop()

    def send(report: p.Report) -> None:
        loop.call_soon_threadsafe(writer.write, p.frame(report))

    body = await p.read_body(reader)
    if body is None:
        return
    load = p.command_decoder.decode(body)
    assert isinstance(load, p.Load)
    try:
        model = await asyncio.to_thread(_load, load.config, send)
    except InferenceError as error:
        writer.write(p.frame(p.LoadRefused(str(error))))
        await writer.drain()
        return
    worker = Worker(model, send)
    send(p.Loaded(model.info))
    threading.Thread(target=worker.run, name="model", daemon=True).start()
    pulse = asyncio.create_task(_beat(worker, send), name="worker beat")
    while body := await p.read_body(reader):
        worker.handle(p.command_decoder.decode(body))
    pulse.cancel()


def main(path: str) -> None:
    """Runs a worker; returns when the service is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the service's to handle
    asyncio.run(serve(path))
    os._exit(0)  # the model's thread may be inside llama.cpp, which nothing can interrupt


if __name__ == "__main__":
    main(sys.argv[1])
