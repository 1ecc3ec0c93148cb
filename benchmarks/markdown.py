"""Tables as Markdown, for the documentation."""

from collections.abc import Mapping, Sequence

DASH = "-"


def table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """Prints a title and a table; columns: the names of all but the first, whose cells are keys."""
    lines = [["", *columns], ["---", *("---:" for _ in columns)]]
    lines += [[name, *values] for name, values in rows.items()]
    print(f"\n{title}\n", flush=True)
    for line in lines:
        print(f"| {' | '.join(line)} |", flush=True)
