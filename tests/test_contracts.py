"""What the design promises of the whole: entry points, the direction of imports, names."""

import ast
import dataclasses
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from models import ARCHITECTURES
from pipelines import config

ROOT = Path(__file__).parents[1]
MLPROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
SETTINGS = {
    "main": ("pipelines.config", "SearchSettings"),
    "train": ("pipelines.config", "TrainSettings"),
    "retrain": ("pipelines.config", "RetrainSettings"),
    "worker": ("pipelines.config", "WorkerSettings"),
    "promote": ("pipelines.promote", "PromoteSettings"),
    "rollback": ("pipelines.rollback", "RollbackSettings"),
    "score": ("pipelines.score", "ScoreSettings"),
    "monitor": ("monitoring.check", "MonitorSettings"),
    "schedule": ("monitoring.schedule", "ScheduleSettings"),
    "app": ("serving.app", "AppSettings"),
}
ROOMS = ("serving", "models", "monitoring", "pipelines")
MAY_IMPORT = {
    "serving": {"serving"},
    "models": {"models"},
    "monitoring": {"monitoring", "serving"},
    "pipelines": set(ROOMS),
}
ONLY = {"optuna": {"pipelines/search.py"}, "evidently": {"monitoring/report.py"}}


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path, *, typing: bool = False) -> set[str]:
    """Top-level packages that a file imports; with `typing`, also those for type checkers alone."""
    tree = ast.parse(path.read_text())
    if not typing:
        tree = _WithoutTypeChecking().visit(tree)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


class _WithoutTypeChecking(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> Any:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return None
        return self.generic_visit(node)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room: str) -> None:
    for path in sources(room):
        ours = imports(path, typing=True) & set(ROOMS)
        assert ours <= MAY_IMPORT[room], f"{path.relative_to(ROOT)} imports {ours}"


@pytest.mark.parametrize("library", ONLY)
def test_a_library_is_imported_in_one_place(library: str) -> None:
    found = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in sources(room)
        if library in imports(path)
    }
    assert found == ONLY[library]


def test_what_serves_and_what_refuses_imports_no_tensorflow() -> None:
    code = (
        "import sys, serving.folder, serving.registered, monitoring.check, pipelines.main\n"
        "import pipelines.promote, pipelines.rollback, pipelines.score, pipelines.train\n"
        "import pipelines.retrain, pipelines.worker\n"
        "print([name for name in ('tensorflow', 'keras') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", SETTINGS)
def test_mlproject_and_settings_have_the_same_parameters_and_defaults(name: str) -> None:
    module, cls = SETTINGS[name]
    fields = {
        field.name: field.default
        for field in dataclasses.fields(getattr(importlib.import_module(module), cls))
    }
    parameters = MLPROJECT["entry_points"][name].get("parameters", {})
    assert parameters.keys() == fields.keys()
    for key, default in fields.items():
        given = parameters[key].get("default", dataclasses.MISSING)
        if isinstance(default, bool):
            default = str(default).lower()
        assert given == default, f"{name}: {key}"


@pytest.mark.parametrize("name", SETTINGS)
def test_every_parameter_is_used_in_its_command_under_its_own_name(name: str) -> None:
    entry = MLPROJECT["entry_points"][name]
    flags = re.findall(r"--(\w+) \{(\w+)\}", entry["command"])
    assert dict(flags) == {key: key for key in entry["parameters"]}
    assert f"python -m {_module(name)} " in entry["command"]


def test_every_entry_point_is_a_module_that_runs() -> None:
    assert MLPROJECT["entry_points"].keys() == SETTINGS.keys() | {"test", "bench"}
    for name in SETTINGS:
        assert (ROOT / _module(name).replace(".", "/")).with_suffix(".py").exists()


def test_settings_know_the_architectures_that_there_are() -> None:
    assert set(config.ARCHITECTURES) == ARCHITECTURES.keys()


def test_every_import_of_ours_is_a_requirement() -> None:
    lines = (ROOT / "requirements.in").read_text().splitlines()
    required = {re.split(r"[=<>]", line)[0] for line in lines if line and line[0] != "#"}
    required |= {"ray"}  # an extra: requirements-ray.in
    packages = {
        "PIL": "pillow",
        "ai_edge_litert": "ai-edge-litert",
        "prometheus_client": "prometheus-client",
        "sklearn": "scikit-learn",
        "yaml": "pyyaml",
    }
    used = set().union(*(imports(path) for room in ROOMS for path in sources(room)))
    foreign = used - set(ROOMS) - set(sys.stdlib_module_names) - {""}
    assert {packages.get(name, name) for name in foreign} <= required


def _module(name: str) -> str:
    elsewhere = {
        "monitor": "monitoring.check",
        "schedule": "monitoring.schedule",
        "app": "serving.app",
    }
    return elsewhere.get(name, f"pipelines.{name}")
