"""The tables of `benchmarks.serving`."""

import math
import statistics
from collections.abc import Mapping, Sequence

from benchmarks.load import Result
from benchmarks.peers.servers import STOCK
from benchmarks.peers.visit import Found, Row
from benchmarks.timing import grid, table

DASH = "-"
MB = 1e6


def show(counts: Sequence[int], found: Mapping[str, Found], limits: Sequence[float]) -> None:
    """Prints all; counts: numbers of clients; limits: images a second without a server."""
    rows = {name: row for server in found.values() for name, row in server.rows.items()}
    if rows:
        for clients in counts:
            _rates(clients, rows)
        _servers(found)
    if limits:
        shown = {
            "median": f"{statistics.median(limits):.0f} images/s",
            "from, to": f"{min(limits):.0f}, {max(limits):.0f} ({len(limits)} times)",
        }
        table("Decoding and inference without a server, on all cores", shown)
    if limits or STOCK in rows:
        _ratios(counts, rows, statistics.median(limits) if limits else 0.0)
    for server in found.values():
        if server.error:
            print(f"  {', '.join(server.rows)} failed: {server.error}", flush=True)


def _rates(clients: int, rows: Mapping[str, Row]) -> None:
    """Latencies are of requests; failed are all without status 200, the warm-up's too."""
    columns = ["requests/s", "images/s", "p50 ms", "p95 ms", "p99 ms", "p99/p50", "failed"]
    title = f"{clients} clients at once" if clients > 1 else "1 client"
    lines = {name: _point(row, row.points.get(clients)) for name, row in rows.items()}
    grid(title, columns, lines)


def _point(row: Row, point: Result | None) -> list[str]:
    if point is None:
        return [DASH] * 7
    p50, p95, p99 = (point.milliseconds(share) for share in (0.5, 0.95, 0.99))
    return [
        f"{point.rate:.1f}",
        f"{row.images * point.rate:.1f}",
        *(_number(value) for value in (p50, p95, p99)),
        _number(p99 / p50),
        ", ".join(f"{count} of {_status(status)}" for status, count in _failures(point)) or "0",
    ]


def _failures(point: Result) -> list[tuple[int, int]]:
    return sorted((status, count) for status, count in point.statuses.items() if status != 200)


def _status(status: int) -> str:
    return str(status or "no answer")


def _servers(found: Mapping[str, Found]) -> None:
    """Memory is the most that was seen after a measurement; wrong are answers of those checked."""
    columns = ["first answer s", "PSS MB", "largest: USS MB", "RSS MB", "wrong"]
    columns += ["images answered", "rows in the log"]
    lines = {}
    for server in found.values():
        sizes = server.memory, server.own, server.resident
        answered = sum(row.answered for row in server.rows.values())
        lines[next(iter(server.rows))] = [
            DASH if server.start is None else f"{server.start:.1f}",
            *(f"{size / MB:.0f}" if size else DASH for size in sizes),
            str(sum(row.wrong for row in server.rows.values())),
            str(answered),
            DASH if server.logged is None else str(server.logged),
        ]
    grid("The servers", columns, lines)


def _ratios(counts: Sequence[int], rows: Mapping[str, Row], limit: float) -> None:
    """Images a second over those of MLflow's Keras flavour, and of what the machine can do."""
    columns = [f"{what}, {clients}" for what in ("over stock", "of limit") for clients in counts]
    lines = {}
    for name, row in rows.items():
        over = [_over(row.rate(n), rows[STOCK].rate(n) if STOCK in rows else 0) for n in counts]
        lines[name] = [*over, *(_over(row.rate(n), limit, "{:.1%}") for n in counts)]
    grid("Images a second by clients: times stock, share of the limit", columns, lines)


def _over(rate: float, base: float, form: str = "{:.1f}") -> str:
    return form.format(rate / base) if rate and base else DASH


def _number(value: float) -> str:
    return DASH if math.isnan(value) else f"{value:.1f}"
