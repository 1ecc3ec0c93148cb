"""Medians of several runs, and tables of them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def median_seconds(call: Callable[[], object], times: int = 3) -> float:
    """Median wall time of `times` calls, in seconds."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def table(title: str, rows: dict[str, str]) -> None:
    """Prints rows of a name and a value under a title."""
    print(f"\n{title}", flush=True)
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"  {name:<{width}}  {value}", flush=True)


def grid(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """Prints rows of a name and a value a column under a title and the columns' names."""
    lines = {"": columns} | dict(rows)
    widths = [max(map(len, values)) for values in zip(*lines.values(), strict=True)]
    first = max(map(len, lines))
    print(f"\n{title}", flush=True)
    for name, values in lines.items():
        cells = (f"{value:>{width}}" for value, width in zip(values, widths, strict=True))
        print(f"  {name:<{first}}  {'  '.join(cells)}".rstrip(), flush=True)
