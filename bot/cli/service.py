"""`serve`, `chat` and `worker`."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from bot.cli.runner import run, settings

if TYPE_CHECKING:
    from bot.app import Running


def serve() -> None:
    """Run the service, until Ctrl-C."""
    from bot import app, lifecycle, logs

    async def until_signal() -> None:
        await app.serve(settings(), _show_ready, lifecycle.stop_signal())

    logs.configure()
    run(until_signal())


def _show_ready(running: "Running") -> None:
    model = running.model
    where = "on the GPU" if model.gpu else "on the CPU"
    lines = [
        f"dswbot is ready on {running.url}",
        f"  model      {model.model} ({model.description}) {where}",
        f"  room       {model.slots} conversations at once, {model.context} tokens each",
        f"  memory     {model.sizing}",
        f"  Telegram   {'@' + running.telegram if running.telegram else 'off: set telegram.token to switch it on'}",
        "  terminal   dswbot chat",
        "  programs   dswbot key new NAME",
    ]
    if running.demo:
        lines.append("  This model only shows that everything works. For a real one: dswbot model pull qwen3-4b")
    try:
        typer.echo("\n".join(lines))
    except OSError:  # nobody reads it, or the disk is full: no reason to end; what is buffered must not fail the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def worker(socket: Annotated[str, typer.Option(help="The Unix socket of the service to work for.")]) -> None:
    """Run a model for a service (a service starts its own)."""
    from bot import logs
    from inference import worker as process

    logs.configure()
    process.main(socket)


def chat(
    url: Annotated[str, typer.Option(help="A running service; by default the one on this machine.")] = "",
    system: Annotated[str, typer.Option(help="What the model is told first.")] = "",
) -> None:
    """Talk to the model in this terminal. Ctrl-C stops an answer, Ctrl-D leaves.

    A service elsewhere needs its key in DSWBOT_API_KEY. Where none runs on this machine, one is started for
    the conversation.
    """
    from bot import chat as terminal

    run(terminal.talk(settings(), url=url, key=os.environ.get("DSWBOT_API_KEY", ""), system=system))
