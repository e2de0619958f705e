"""`model list`, `pull` and `path`."""

from typing import TYPE_CHECKING, Annotated

import typer

from bot.cli.runner import plain_errors, settings

if TYPE_CHECKING:
    from inference.weights import Progress

app = typer.Typer(no_args_is_help=True, help="The models on this disk, and fetching them.")

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="A name of `model list`.")]


@app.command("list")
def list_() -> None:
    """The known models, and which of them are on this disk."""
    from inference import weights

    present = {file.name: file for file in weights.on_disk(settings().models_dir)}
    for model in weights.CATALOGUE:
        file = present.get(model.name)
        where = f"on disk, {file.size / 1e9:.2f} GB" if file else "not here"
        typer.echo(f"{model.name:<10}  {where:<18}  {model.title}")


@app.command()
def pull(name: Name) -> None:
    """Fetch a model from ModelScope; goes on where an earlier try stopped."""
    from rich import progress as bars

    from inference import weights

    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.DownloadColumn(),
               bars.TransferSpeedColumn(), bars.TimeRemainingColumn())  # fmt: skip
    with plain_errors(), bars.Progress(*columns) as bar:
        task = bar.add_task(name, total=None)

        def show(progress: "Progress") -> None:
            bar.update(task, completed=progress.done, total=progress.total, description=progress.stage)

        file = weights.pull(name, settings().models_dir, show)
    typer.echo(f"{name} is at {file.path}")


@app.command()
def path(name: Name) -> None:
    """Where a model's file lies."""
    from inference import weights

    with plain_errors():
        typer.echo(str(weights.resolve(name, "", settings().models_dir).path))
