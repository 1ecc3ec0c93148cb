"""The server beside others, under a load from another process: `python -m benchmarks.serving`.

One network (MobileNetV2 at 160 px), the same images, one server after the other, about 12 minutes
with the defaults on two cores. `--parts` chooses what runs:

| part | |
| --- | --- |
| `stock` | MLflow's Keras flavour, pixels as JSON |
| `function` | a pyfunc that calls a `tf.function`, pixels as JSON |
| `ours`, `ours-2` | this project's model with one worker and two, base64 in JSON; 1 and 16 images |
| `app` | `python -m serving.app`, the image as it is |
| `litserve`, `bentoml` | this project's classifier in other servers, the image as it is |
| `limit` | decoding and inference without a server, on all cores, before and after each part |
| `disk` | the environment without TensorFlow, beside this one |

The servers answer over HTTP on this machine, those of this project with the inference log on. Peers
are installed with uv, once. Rates are of one machine and one run: look at the ratios.
"""

import os
import platform
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks import places
from benchmarks.peers import forms, scores
from benchmarks.peers.served import Served
from benchmarks.peers.servers import OWN_CODE, SERVERS, Stage, environment
from benchmarks.peers.visit import Found, visit
from benchmarks.places import ROOT
from benchmarks.process import last_line
from benchmarks.timing import table
from pipelines.backend import start_up
from serving import settings as entry
from serving.settings import describe, require

IMAGES = 64  # different ones
PARTS = (*SERVERS, "limit", "disk")


@dataclass(frozen=True)
class ServingBenchmarkSettings:
    """Compares the server with MLflow's own flavour, other servers, and the limit."""

    parts: str = describe(f"all, or a comma list of {', '.join(PARTS)}", "all")
    seconds: float = describe("of each measurement at least, after a quarter to warm up", 8.0)
    clients: str = describe("how many at once, a comma list", "1,8,32")
    data: str = describe("folder of images; empty: scenes in LOOKOUT_DATA, else digits", "")

    def __post_init__(self) -> None:
        """Raises UserError for a value out of its range."""
        unknown = sorted(set(self.chosen) - set(PARTS))
        choices = ", ".join(PARTS)
        require(not unknown, f"Unknown parts {', '.join(unknown)}; choose of {choices}.")
        require(bool(self.chosen), f"Expected parts, of {choices}, got none.")
        require(self.seconds > 0, f"Expected seconds of more than 0, got {self.seconds}.")
        counts = [count.strip() for count in self.clients.split(",")]
        numbers = all(count.isdecimal() and int(count) > 0 for count in counts)
        require(numbers, f"Expected clients as a comma list of numbers, got {self.clients!r}.")

    @property
    def chosen(self) -> list[str]:
        """The parts to run, in the order of PARTS."""
        if self.parts == "all":
            return list(PARTS)
        asked = {part.strip() for part in self.parts.split(",")} - {""}
        return sorted(asked, key=lambda part: (*PARTS, part).index(part))

    @property
    def counts(self) -> list[int]:
        """Numbers of clients."""
        return [int(count) for count in self.clients.split(",")]


def main(settings: ServingBenchmarkSettings) -> int:
    """Runs the parts and prints the tables; returns 0."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # children of `nohup` would ignore it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are ended
    _tell_machine()
    with tempfile.TemporaryDirectory(prefix="lookout-benchmark-") as scratch:
        stage = _prepare(settings, Path(scratch))
        found, limits = _run(stage, settings)
        scores.show(settings.counts, found, limits)
        if "disk" in settings.chosen:
            table("Environments on disk", _disk(stage))
    return 0


def _run(stage: Stage, settings: ServingBenchmarkSettings) -> tuple[dict[str, Found], list[float]]:
    """What was seen of each server, and the limit before and after each."""
    found: dict[str, Found] = {}
    limits = [_limit(stage, settings.seconds)] if "limit" in settings.chosen else []
    for part in settings.chosen:
        if part in SERVERS:
            print(f"{part}: {', '.join(SERVERS[part].forms)}", flush=True)
            found[part] = visit(stage, part, SERVERS[part], settings.counts, settings.seconds)
            if limits:
                limits.append(_limit(stage, settings.seconds))
    return found, limits


def _tell_machine() -> None:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    packages = ("mlflow", "tensorflow", "keras", "ai-edge-litert")
    rows = {
        "processor": f"{os.cpu_count()} cores, {names[0] if names else platform.machine()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "versions": ", ".join(f"{package} {version(package)}" for package in packages),
    }
    table("Measured on", rows)


def _prepare(settings: ServingBenchmarkSettings, folder: Path) -> Stage:
    """Makes the network, registers it in a store of its own, and writes the requests."""
    print("  making the network", flush=True)
    source = places.source(settings.data)
    source = source if source == "digits" else str(Path(source).resolve())
    command = [sys.executable, "-m", "benchmarks.peers.network", source, str(IMAGES)]
    with (folder / "log.txt").open("wb") as log:
        subprocess.run(  # noqa: S603 - ours
            command,
            cwd=folder,
            env=environment(folder, folder) | OWN_CODE,
            stdout=log,
            stderr=log,
            check=True,
        )
    served = Served.read(folder)
    images = [Path(path) for path in served.images]
    with start_up():  # LiteRT tells of its delegate
        requests = forms.make(Path(served.folder), images, folder / "requests")
    return Stage(folder, served, requests)


def _limit(stage: Stage, seconds: float) -> float:
    """Images a second without a server."""
    arguments = [stage.served.folder, str(stage.forms["image"].folder), str(seconds)]
    command = [sys.executable, "-m", "benchmarks.peers.limit", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - ours
    return float(done.stdout)


def _disk(stage: Stage) -> dict[str, str]:
    """Sizes of the environment that MLflow makes for the model with uv, and of this one."""
    folder = stage.folder / "disk"
    folder.mkdir()
    command = [sys.executable, "-m", "mlflow", "models", "prepare-env", "--env-manager", "uv"]
    variables = environment(stage.folder, folder) | {"MLFLOW_ENV_ROOT": str(folder / "envs")}
    with (folder / "log.txt").open("wb") as log:
        done = subprocess.run(  # noqa: S603 - ours
            [*command, "--model-uri", stage.served.ours],
            cwd=folder,
            env=variables,
            stdout=log,
            stderr=log,
            check=False,
        )
    failed = f"failed: {last_line(folder / 'log.txt')}"
    return {
        "made by uv for the model": failed if done.returncode else _size(folder / "envs"),
        "this one, with TensorFlow": _size(Path(sys.prefix)),
    }


def _size(folder: Path) -> str:
    """Bytes and packages below a folder; a file with several names counts once."""
    files = [path.lstat() for path in folder.rglob("*") if path.is_file() or path.is_symlink()]
    size = sum({(file.st_dev, file.st_ino): file.st_size for file in files}.values())
    return f"{size / 1e6:,.0f} MB, {len(list(folder.rglob('*.dist-info')))} packages"


if __name__ == "__main__":
    entry.run(ServingBenchmarkSettings, main)
