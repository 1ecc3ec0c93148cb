"""What passes between a search space and a builder."""

Params = dict[str, float | int | str | bool]
Shape = tuple[int, int, int]
