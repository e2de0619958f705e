"""The commands. Each imports what it needs when it runs, so that `--help` answers at once."""

import typer

from bot.cli import cost, models, records, service

app = typer.Typer(
    name="dswbot", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="A chat bot on a rented GPU: Telegram, webhooks and OpenAI clients in front of one llama.cpp model.",
)  # fmt: skip
app.command()(service.serve)
app.command()(service.chat)
app.command()(service.worker)
app.command()(cost.cost)
app.add_typer(models.app, name="model")
app.add_typer(records.key, name="key")
app.add_typer(records.client, name="client")
app.add_typer(records.telegram, name="telegram")
app.add_typer(records.outbox, name="outbox")
app.add_typer(records.db, name="db")
