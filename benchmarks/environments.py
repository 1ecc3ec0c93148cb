"""Environments of the peers: made once with uv, kept in the cache."""

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import dataclass

from benchmarks.places import ROOT
from pipelines import cache
from serving.settings import UserError

PYTHON = "3.11"


class InstallError(Exception):
    """A peer's environment could not be made."""


@dataclass(frozen=True)
class Environment:
    """Packages; locked: whether in the versions of `requirements.txt`, where it names them."""

    packages: tuple[str, ...]
    locked: bool


ENVIRONMENTS = {
    # KerasTuner imports tensorboard, and asks for it nowhere.
    "kerastuner": Environment(("keras-tuner", "tensorboard", "tensorflow", "keras", "h5py"), True),
    "autokeras": Environment(("autokeras==3.0.0", "keras==3.8.0", "tensorflow==2.18.*"), False),
}


def uv() -> list[str]:
    """The command of uv; raises UserError where there is none."""
    if found := shutil.which("uv"):
        return [found]
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    raise UserError("Expected uv, which makes the peers' environments; get it: `pip install uv`.")


def python(name: str) -> str:
    """Path of an environment's interpreter; the first call installs it.

    Raises InstallError with uv's last line where it cannot be made.
    """
    environment, lock = ENVIRONMENTS[name], ROOT / "requirements.txt"
    decided_by = environment.packages, PYTHON, lock.read_text() if environment.locked else ""
    folder = cache.folder("peers") / f"{name}-{cache.key(*decided_by)}"
    interpreter, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        print(f"  installing {', '.join(environment.packages)}", flush=True)
        _uv("venv", "--quiet", "--clear", "--python", PYTHON, str(folder))
        constraints = ("--constraint", str(lock)) if environment.locked else ()
        _uv("pip", "install", "--python", str(interpreter), *constraints, *environment.packages)
        complete.touch()
    return str(interpreter)


def _uv(*arguments: str) -> None:
    command = [*uv(), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise InstallError(f"uv {arguments[0]}: {lines[-1] if lines else done.returncode}")
