"""Where the models are that `benchmarks.peers.network` has made: one JSON object in a file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

FILE = "served.json"


@dataclass(frozen=True)
class Served:
    """The network in every form.

    ours, stock, compiled: URIs of models; folder: the exported network; needs: packages of `ours`
    with their versions; images: paths.
    """

    ours: str
    stock: str
    compiled: str
    folder: str
    needs: list[str]
    images: list[str]

    def write(self, folder: Path) -> None:
        """All fields, for `read`."""
        (folder / FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What was written into a folder."""
        return cls(**json.loads((folder / FILE).read_text()))
