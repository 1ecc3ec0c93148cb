"""Where the project is, and the images that are measured on."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]


def shared(*parts: str) -> str:
    """A path below LOOKOUT_DATA; empty where that is not set."""
    folder = os.environ.get("LOOKOUT_DATA", "")
    return str(Path(folder, *parts)) if folder else ""


def source(given: str = "") -> str:
    """What to measure on: `given`, else the scenes in LOOKOUT_DATA, else the digits."""
    return given or shared("scenes") or "digits"
