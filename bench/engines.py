"""dswbot against llama-server, llama_cpp.server and xllamacpp, over HTTP, with the same model and the same users.

    python -m bench.engines --workload burst|chat|crowd|intrusion|soak [--clients 1,8,32] [--json FILE]

One server runs at a time, each in every round, in turning order; medians of the rounds. Without --model all of
them load the embedded model as dswbot does, requantised to Q4_0. The defaults suit 2 cores.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.load import Burst, Chat, Intrusion, Record, Soak, Target, Workload, play
from bench.servers import SERVERS, Running, ServerFailed, Shape, available

GRAIN = 256  # a conversation's context is a multiple of this
MARGIN = 100  # tokens of a chat template and of a longer prompt than planned
LATENCIES = ("TTFT p50, s", "TTFT p95, s")
GAPS = ("gap p50, ms", "gap p99, ms", "gap max, ms")
SIZES = ("prompt tokens", "answer tokens", "errors")


@dataclass(frozen=True, slots=True)
class Plan:
    """A workload as it is run where nothing else is asked for. `slots` of 0: one for each client."""

    title: str
    workload: Workload
    clients: tuple[int, ...]
    slots: int
    shown: tuple[str, ...]


CHATTING = ("tok/s", *LATENCIES, "later TTFT p50, s", "later TTFT p95, s", *GAPS, *SIZES)
PLANS = {
    "burst": Plan("all at once, one request each", Burst(), (1, 4, 16), 0, ("tok/s", *LATENCIES, *GAPS, *SIZES)),
    "chat": Plan("people who talk", Chat(), (4, 12), 4, CHATTING),
    "crowd": Plan("four times as many who talk as there are slots", Chat(), (), 4, CHATTING),
    "intrusion": Plan("a long prompt comes while others read their answers", Intrusion(), (16,), 17,
                      ("tok/s", *GAPS, "intruder TTFT, s", "still reading then", *SIZES)),
    "soak": Plan("short requests for long", Soak(), (4,), 4, ("tok/s", *LATENCIES, "requests", *SIZES)),
}  # fmt: skip


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed; nan of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def summary(records: Sequence[Record]) -> dict[str, float]:
    """The figures of a run by name. Whoever is in a group counts for the time to the first token alone."""
    crowd, others = [r for r in records if not r.group], [r for r in records if r.group]
    begun = [record for record in crowd if not math.isnan(record.first)]
    firsts, later = [r.first - r.start for r in begun], [r.first - r.start for r in begun if r.turn]
    gaps = [1000 * gap for record in crowd for gap in record.gaps]
    seconds = max(r.end for r in crowd) - min(r.start for r in crowd)
    return {
        "tok/s": sum(record.tokens for record in crowd) / seconds,
        "TTFT p50, s": percentile(firsts, 0.5),
        "TTFT p95, s": percentile(firsts, 0.95),
        "later TTFT p50, s": percentile(later, 0.5),
        "later TTFT p95, s": percentile(later, 0.95),
        "gap p50, ms": percentile(gaps, 0.5),
        "gap p99, ms": percentile(gaps, 0.99),
        "gap max, ms": max(gaps, default=math.nan),
        **{f"{other.group} TTFT, s": other.first - other.start for other in others},
        "still reading then": sum(record.end > other.first for other in others for record in crowd),
        "prompt tokens": statistics.mean(record.prompt for record in crowd),
        "answer tokens": statistics.mean(record.tokens for record in crowd),
        "requests": len(records),
        "errors": sum(bool(record.error) for record in records),
    }


def growth(samples: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Each process's mean memory in the second and in the last quarter, and how many times the second the last is."""
    figures = {}
    for name, values in samples.items():
        if quarter := len(values) // 4:
            early, late = statistics.mean(values[quarter : 2 * quarter]), statistics.mean(values[-quarter:])
            figures |= {f"{name}: MiB, 2nd quarter": early, f"{name}: MiB, last quarter": late}
            figures[f"{name}: last / 2nd"] = late / early
    return figures


def resident(pid: int) -> float:
    """A process's resident memory in MiB; nan once it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return math.nan


@contextlib.asynccontextmanager
async def memory_of(pids: Mapping[str, int], every: float = 1.0) -> AsyncIterator[dict[str, list[float]]]:
    """The memory of processes, sampled while the block runs."""
    samples: dict[str, list[float]] = {name: [] for name in pids}

    async def sample() -> None:
        while True:
            for name, pid in pids.items():
                samples[name].append(resident(pid))
            await asyncio.sleep(every)

    task = asyncio.create_task(sample(), name="memory")
    try:
        yield samples
    finally:
        task.cancel()
        await asyncio.wait([task])


async def measure(server: Running, workload: Workload, clients: int, seed: int) -> dict[str, float]:
    """One run, after a short one that warms the server up."""
    target = Target(server.url, server.model, server.headers, server.unending)
    await play(target, Burst(prompt=16, tokens=8).users(clients, seed + 1))
    async with memory_of(server.pids) as samples:
        records = await play(target, workload.users(clients, seed))
    for error in sorted({record.error for record in records if record.error}):
        print(f"  {error}", file=sys.stderr)
    return summary(records) | (growth(samples) if isinstance(workload, Soak) else {})


def run(names: Sequence[str], plan: Plan, shape: Shape, rounds: int) -> list[dict[str, object]]:
    """A row for each round, server and number of clients; the order of the servers turns with every round."""
    rows: list[dict[str, object]] = []
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            print(f"round {turn + 1}: {name}", file=sys.stderr)
            with SERVERS[name](shape) as server:
                for clients in plan.clients:
                    figures = asyncio.run(measure(server, plan.workload, clients, seed=10_000 * turn + 10 * clients))
                    rows.append({"server": name, "clients": clients, "round": turn + 1, **figures})
    return rows


def table(names: Sequence[str], plan: Plan, rows: Sequence[Mapping[str, object]]) -> str:
    """A line for each figure, a column for each server, with its ratio to the first llama-server."""
    reference = next((name for name in names if name.startswith("llama-server")), "")
    lines = [
        f"{'clients':>7}  {'':<24}" + "".join(f"{name:>18}{'' if name == reference else '  ratio'}" for name in names)
    ]
    for clients in plan.clients:
        these = [row for row in rows if row["clients"] == clients]
        memory = dict.fromkeys(key for row in these for key in row if ": " in key)
        for figure in (*plan.shown, *memory):
            medians = {n: _median(row.get(figure, math.nan) for row in these if row["server"] == n) for n in names}
            cells = [_cell(medians[n], medians.get(reference, math.nan), n == reference) for n in names]
            lines.append(f"{clients:>7}  {figure:<24}" + "".join(cells))
    return "\n".join(lines)


def _median(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def _cell(value: float, reference: float, is_reference: bool) -> str:
    shown = "-" if math.isnan(value) else f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
    ratio = value / reference if reference else math.nan
    told = "" if is_reference else "      -" if math.isnan(ratio) else f"{ratio:>7.2f}"
    return f"{shown:>18}{told}"


@contextmanager
def _model(path: Path | None) -> Iterator[Path]:
    """The file that all servers load."""
    if path:
        yield path.absolute()
        return
    from inference import weights
    from inference.protocol import EngineConfig
    from inference.requantise import prepare

    shipped = weights.resolve("embedded", "", Path())
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield Path(prepare(EngineConfig("embedded", str(shipped.path), folder)).path)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _servers(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(SERVERS):
        raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}")
    return names


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.engines", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workload", choices=PLANS, required=True)
    parser.add_argument("--clients", type=_numbers, help="how many at once, such as 1,8,32")
    parser.add_argument("--servers", type=_servers, help=f"of {', '.join(SERVERS)}; by default those that are here")
    parser.add_argument("--model", type=Path, help="a GGUF")
    parser.add_argument("--slots", type=int)
    parser.add_argument("--context", type=int, help="tokens a conversation")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    for name in ("prompt", "tokens", "system", "turns", "requests"):
        parser.add_argument(f"--{name}", type=int, help="of the workload, where it has such")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="a file for all figures of all rounds")
    arguments = parser.parse_args()
    arguments.servers = arguments.servers or available()
    return arguments


def _planned(arguments: argparse.Namespace) -> Plan:
    plan = PLANS[arguments.workload]
    fields = type(plan.workload).__dataclass_fields__
    given = {name: value for name in fields if (value := getattr(arguments, name)) is not None}
    slots = arguments.slots or plan.slots
    clients = arguments.clients or plan.clients or (4 * slots,)
    return replace(plan, workload=replace(plan.workload, **given), clients=clients, slots=slots or max(clients))


def _report(arguments: argparse.Namespace, plan: Plan, shape: Shape, rows: Sequence[Mapping[str, object]]) -> None:
    room = f"{shape.slots} slots of {shape.context} tokens"
    print(f"\n{arguments.workload}: {plan.title}. {plan.workload}")
    print(f"{shape.model.name}, {room}, {shape.threads} threads, rounds: {arguments.rounds}\n")
    print(table(arguments.servers, plan, rows))
    if arguments.json:
        bare = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
        found = {"workload": arguments.workload, "slots": shape.slots, "context": shape.context, "rows": bare}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves no server behind
    arguments = _arguments()
    plan = _planned(arguments)
    context = arguments.context or GRAIN * math.ceil((plan.workload.room + MARGIN) / GRAIN)
    with _model(arguments.model) as model:
        shape = Shape(model, context, plan.slots, arguments.threads)
        try:
            rows = run(arguments.servers, plan, shape, arguments.rounds)
        except ServerFailed as failure:
            sys.exit(str(failure))
        _report(arguments, plan, shape, rows)


if __name__ == "__main__":
    main()
