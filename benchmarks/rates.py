"""How often each detector says drift: false alarms and power, as tables and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from scipy import stats

from benchmarks import charts
from benchmarks.detectors import DETECTORS, Contest, Flags, Plan
from benchmarks.draws import MISSING, POWER, draws
from benchmarks.environments import InstallError
from benchmarks.markdown import DASH, table
from benchmarks.shifts import NONE
from pipelines.figures import save

PICTURED = 100  # images, of the picture by shift
BY_SIZE = ("noise 25", "JPEG 10", "rotation 5", "cats and dogs 10%", MISSING)
CONFIDENCE = 0.95
ROWS = (NONE, *POWER)
Found = Mapping[str, Flags]  # of each title


def alarms(contest: Contest, sizes: Sequence[int], count: int, chosen: Sequence[str]) -> Found:
    """Prints the false alarms of `count` draws of each size; chosen: names of detectors."""
    plan = {(NONE, size): draws(contest.rows, NONE, size, count) for size in sizes}
    found = _flags(contest, plan, chosen)
    rows = {
        title: [_alarm(flags.get((NONE, size)), count) for size in sizes]
        for title, flags in found.items()
    }
    columns = [f"{size:,} images" for size in sizes]
    table(f"False alarms (upper {CONFIDENCE:.0%} bound), {count} draws", columns, rows)
    return found


def power(contest: Contest, sizes: Sequence[int], count: int, chosen: Sequence[str]) -> Found:
    """Prints the share of `count` draws of each shift and size that each detector flags.

    The first row is without a shift: what is found there does not count.
    """
    cells = [(name, size) for size in sizes for name in ROWS]
    plan = {cell: draws(contest.rows, *cell, count) for cell in cells}
    found = _flags(contest, plan, chosen)
    for size in sizes:
        rows = {n: [_share(f.get((n, size)), count) for f in found.values()] for n in ROWS}
        table(f"Power, {size:,} images, {count} draws", list(found), rows)
    return found


def draw(folder: Path, sizes: Sequence[int], alarms: Found | None, power: Found | None) -> None:
    """Writes the pictures of what was measured as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    if alarms:
        lines = {title: _line(flags, NONE, sizes) for title, flags in alarms.items()}
        save(charts.by_size({"False alarms": lines}, nominal=0.05), folder / "drift-alarms.png")
    if power:
        parts = {n: {t: _line(f, n, sizes) for t, f in power.items()} for n in BY_SIZE}
        save(charts.by_size(parts), folder / "drift-power-by-images.png")
        if PICTURED in sizes:
            shares = {t: [_rate(f.get((n, PICTURED))) for n in ROWS] for t, f in power.items()}
            save(charts.by_shift(ROWS, shares, PICTURED), folder / "drift-power.png")


def upper(flagged: int, draws: int) -> float:
    """Exact upper bound of a rate, one-sided (Clopper and Pearson 1934, doi 10.2307/2331986)."""
    if flagged == draws:
        return 1.0
    return float(stats.beta.ppf(CONFIDENCE, flagged + 1, draws - flagged))


def _flags(contest: Contest, plan: Plan, chosen: Sequence[str]) -> Found:
    found: dict[str, Flags] = {}
    for name in chosen:
        print(f"  {name}", flush=True)
        try:
            found |= DETECTORS[name].flags(contest, plan)
        except InstallError as error:
            print(f"  {name} cannot be installed: {error}", flush=True)
    return found


def _line(flags: Flags, name: str, sizes: Sequence[int]) -> dict[int, float]:
    rates = {size: _rate(flags.get((name, size))) for size in sizes}
    return {size: rate for size, rate in rates.items() if rate is not None}


def _rate(flags: Sequence[bool] | None) -> float | None:
    return sum(flags) / len(flags) if flags else None


def _share(flags: Sequence[bool] | None, count: int) -> str:
    if not flags:
        return DASH
    return f"{sum(flags) / len(flags):.2f}{_fewer(flags, count)}"


def _alarm(flags: Sequence[bool] | None, count: int) -> str:
    if not flags:
        return DASH
    bound = upper(sum(flags), len(flags))
    return f"{sum(flags) / len(flags):.1%} ({bound:.1%}){_fewer(flags, count)}"


def _fewer(flags: Sequence[bool], count: int) -> str:
    """How many draws, where they are not `count`."""
    return "" if len(flags) == count else f" of {len(flags)}"
