"""The tables of `benchmarks.search`."""

from collections.abc import Sequence

from benchmarks.results import Cost, Row
from benchmarks.timing import grid

HEADS = 10
DASH = "-"
HEAD_PARTS = ("heads", "frozen")


def show(results: Sequence[Row | Cost], order: Sequence[str], levels: Sequence[float]) -> None:
    """Prints a table for each title, rows in the order of their parts."""
    ordered = sorted(results, key=lambda result: order.index(result.part))
    for title in dict.fromkeys(result.title for result in ordered):
        of_title = [result for result in ordered if result.title == title]
        rows = [result for result in of_title if isinstance(result, Row)]
        if costs := [result for result in of_title if isinstance(result, Cost)]:
            _costs(title, costs)
        elif rows[0].part in HEAD_PARTS:
            _heads(title, rows)
        elif rows:
            _searches(title, rows, levels)


def _searches(title: str, rows: list[Row], levels: Sequence[float]) -> None:
    """Rates, times to an accuracy, and memory; the weakest's best is the first level."""
    weakest = min((row.best for row in rows if row.best is not None), default=None)
    asked = sorted({*levels, *([] if weakest is None else [weakest])})
    names = [f"s to {level:.3f}{' (weakest)' * (level == weakest)}" for level in asked]
    columns = ["trials/h", "images/h", *names, "best", "trials", "epochs", "GiB", "wall s"]
    lines = {}
    for row in rows:
        trials, epochs = len(row.of("end")), len(row.of("epoch"))
        lines[row.name] = [
            f"{row.per_hour(trials):.0f}",
            f"{row.per_hour(epochs * row.images):,.0f}",
            *(_or_dash(row.reached(level), "{:.0f}") for level in asked),
            _or_dash(row.best, "{:.4f}"),
            str(trials),
            str(epochs),
            *_machine(row),
        ]
    grid(title, columns, lines)
    _errors(rows)


def _heads(title: str, rows: list[Row]) -> None:
    """Seconds a head without the start, and of HEADS with it, projected where fewer were trained.

    The start is all that comes before the first head: features count there.
    """
    columns = ["heads", "start s", "s a head", f"s for {HEADS}", "best", "epochs", "GiB", "wall s"]
    lines = {}
    for row in rows:
        heads, begins = len(row.of("end")), row.of("begin")
        start = begins[0]["seconds"] if begins else None
        each = row.seconds_a_trial()
        total = None if each is None or start is None else start + HEADS * each
        projected = " (projection)" if total is not None and heads < HEADS else ""
        lines[row.name] = [
            str(heads),
            _or_dash(start, "{:.1f}"),
            _or_dash(each, "{:.2f}"),
            _or_dash(total, "{:.0f}") + projected,
            _or_dash(row.best, "{:.4f}"),
            str(len(row.of("epoch"))),
            *_machine(row),
        ]
    grid(title, columns, lines)
    _errors(rows)


def _costs(title: str, costs: list[Cost]) -> None:
    """The trials' wall time, summed and from the first to the last, beside the plain loop's."""
    columns = ["trials", "epochs", "s an epoch", "sum s", "plain s", "more", "s a trial more"]
    columns += ["first to last s", "plain s", "more"]
    lines = {}
    for cost in costs:
        tracked, bare = sum(cost.tracked), sum(cost.bare)
        lines[cost.name] = [
            _pair(len(cost.tracked), len(cost.bare)),
            _pair(cost.tracked_epochs, cost.bare_epochs),
            f"{cost.epoch:.2f}",
            f"{tracked:.1f}",
            f"{bare:.1f}",
            _more(tracked, bare),
            f"{cost.extra:.2f}",
            f"{cost.tracked_span:.1f}",
            f"{cost.bare_span:.1f}",
            _more(cost.tracked_span, cost.bare_span),
        ]
    grid(title, columns, lines)
    _errors(costs)


def _machine(row: Row) -> list[str]:
    return [f"{row.peak / 2**30:.2f}" if row.peak else DASH, f"{row.seconds:.0f}"]


def _errors(results: Sequence[Row | Cost]) -> None:
    for result in results:
        if result.error:
            print(f"  {result.name} failed: {result.error}", flush=True)


def _pair(tracked: int, bare: int) -> str:
    """One number, or both where the plain loop's is another."""
    return str(bare) if tracked == bare else f"{tracked}, plain {bare}"


def _more(tracked: float, bare: float) -> str:
    return f"{100 * (tracked / bare - 1):+.1f}%" if bare else DASH


def _or_dash(value: float | None, form: str) -> str:
    return DASH if value is None else form.format(value)
