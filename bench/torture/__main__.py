"""Breaks the running service in every way that it promises to survive, and checks what became of each message.

    python -m bench.torture --kills 1000 [--database sqlite|postgresql] [--seed N] [--shards N]

The seed decides what is broken when; it is printed. A violation ends it with exit code 1 and the evidence.
"""

import argparse
import asyncio
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from bench.torture.report import Summary, merged, summarised, table
from bench.torture.shard import Options, Shard
from tests.models.qwen3_shape import write_qwen3_shape


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.torture", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--gateways", type=int, help="processes on one database; 2 on PostgreSQL")
    parser.add_argument("--telegram", choices=("one", "all", "none"), default="one", help="gateways that poll")
    parser.add_argument("--server", default="", help="a PostgreSQL server's URL; by default one is started")
    parser.add_argument("--seed", default=secrets.token_hex(4))
    parser.add_argument("--shards", type=int, default=1, help="services that are tortured side by side")
    parser.add_argument("--minutes", type=float, default=0.0, help="begins nothing new after so many")
    parser.add_argument("--model", type=Path, help="a GGUF; by default a tiny one with random weights")
    parser.add_argument("--folder", type=Path, help="where everything is kept, logs and databases included")
    parser.add_argument("--shard", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _one(arguments: argparse.Namespace, number: int) -> Summary:
    """Runs one shard in this process."""
    folder = arguments.folder / f"shard-{number}"
    folder.mkdir(parents=True)
    postgres = arguments.database == "postgresql"
    kills = arguments.kills // arguments.shards + (number < arguments.kills % arguments.shards)
    options = Options(
        seed=f"{arguments.seed}/{number}", kills=kills, folder=folder, model=arguments.model,
        database=arguments.database, gateways=arguments.gateways or (2 if postgres else 1),
        telegram=arguments.telegram, server=arguments.server, minutes=arguments.minutes,
    )  # fmt: skip
    began = time.monotonic()
    index = asyncio.run(Shard(options).run())
    return summarised(index, time.monotonic() - began)


def _side_by_side(arguments: argparse.Namespace) -> list[Summary]:
    """Each shard in a process of its own, which leaves its summary in the folder."""
    running = [
        subprocess.Popen([
            sys.executable, "-m", "bench.torture", *sys.argv[1:], "--shard", str(number),
            "--seed", arguments.seed, "--folder", str(arguments.folder), "--model", str(arguments.model),
        ])
        for number in range(arguments.shards)
    ]  # fmt: skip
    codes = [process.wait() for process in running]
    if any(codes):
        sys.exit("a shard failed; what it says is above")
    return [
        msgspec.json.decode((arguments.folder / f"shard-{number}" / "summary.json").read_bytes(), type=Summary)
        for number in range(arguments.shards)
    ]


def _play(arguments: argparse.Namespace) -> int:
    arguments.model = arguments.model or write_qwen3_shape(arguments.folder / "tiny.gguf")
    arguments.model = arguments.model.absolute()
    print(f"seed {arguments.seed}: {arguments.kills} kills on {arguments.database}, shards: {arguments.shards}")
    summaries = [_one(arguments, 0)] if arguments.shards == 1 else _side_by_side(arguments)
    summary = merged(summaries)
    for violation in summary.violations:
        print(f"\n{violation.kind}\n  {violation.evidence}")
    print(f"\n{table(summary)}")
    return 1 if summary.violations else 0


def main() -> None:
    arguments = _arguments()
    if arguments.shard is not None:
        summary = _one(arguments, arguments.shard)
        (arguments.folder / f"shard-{arguments.shard}" / "summary.json").write_bytes(msgspec.json.encode(summary))
        return
    if arguments.folder:
        arguments.folder = arguments.folder.absolute()
        arguments.folder.mkdir(parents=True, exist_ok=True)
        sys.exit(_play(arguments))
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        arguments.folder = Path(folder)
        sys.exit(_play(arguments))


if __name__ == "__main__":
    main()
