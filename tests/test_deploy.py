"""The examples of `deploy/` and the schedule's page: their commands are ones that there are."""

import configparser
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from serving.settings import parse
from tests.test_contracts import MLPROJECT, ROOT, SETTINGS

DEPLOY = ROOT / "deploy"
CRONTAB = DEPLOY / "cron" / "crontab"
CRONJOB = DEPLOY / "kubernetes" / "drift-check.yaml"
UNITS = sorted((DEPLOY / "systemd").iterdir())
PAGES = [DEPLOY / "README.md", ROOT / "docs" / "schedule.md"]
MODULES = {"monitoring.check": "monitor", "monitoring.schedule": "schedule"}


def commands() -> list[tuple[str, dict[str, str]]]:
    """Entry point and parameters of every command in the examples."""
    texts = [path.read_text() for path in (CRONTAB, *UNITS, *PAGES)]
    container = cronjob()["containers"][0]
    texts.append(shlex.join([*container["command"], *container["args"]]))
    found = []
    for text in texts:
        lines = text.replace("\\\n", " ").splitlines()
        found += [_mlflow(line) for line in lines if re.search(r"mlflow run \. -e .* -P ", line)]
        found += [_module(line) for line in lines if re.search(r"python -m monitoring\S+ -", line)]
    return found


def _mlflow(line: str) -> tuple[str, dict[str, str]]:
    words = shlex.split(line.split("mlflow run . ", 1)[1].split(" > ")[0], comments=True)
    given = [words[n + 1] for n, word in enumerate(words) if word == "-P"]
    return words[words.index("-e") + 1], dict(pair.split("=", 1) for pair in given)


def _module(line: str) -> tuple[str, dict[str, str]]:
    module, *words = shlex.split(line.split("python -m ", 1)[1], comments=True)
    pairs = [part for word in words for part in word.split("=", 1)]
    names = [name.removeprefix("--") for name in pairs[::2]]
    return MODULES[module], dict(zip(names, pairs[1::2], strict=True))


def cronjob() -> dict:
    spec = yaml.safe_load(CRONJOB.read_text())["spec"]
    return spec | spec["jobTemplate"]["spec"] | spec["jobTemplate"]["spec"]["template"]["spec"]


def test_every_command_is_one_that_the_entry_points_accept() -> None:
    found = commands()
    assert len(found) >= 5
    assert {entry for entry, _ in found} == {"monitor", "schedule"}
    for entry, given in found:
        assert given.keys() <= MLPROJECT["entry_points"][entry]["parameters"].keys()
        module, cls = SETTINGS[entry]
        flags = [f"--{name}={value}" for name, value in given.items()]
        parse(getattr(importlib.import_module(module), cls), flags, entry)


def test_the_cronjob_neither_overlaps_nor_retries_and_may_write_nothing_but_tmp() -> None:
    spec = cronjob()
    assert (spec["concurrencyPolicy"], spec["backoffLimit"]) == ("Forbid", 0)
    assert spec["startingDeadlineSeconds"] >= 10  # Kubernetes looks every 10 seconds
    assert 0 < spec["activeDeadlineSeconds"] <= 3600
    assert spec["restartPolicy"] == "Never"
    assert spec["securityContext"]["runAsNonRoot"]
    container = spec["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert container["envFrom"] == [{"secretRef": {"name": "lookout"}}]
    assert container["resources"].keys() == {"requests", "limits"}
    mounted = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounted.keys() == {volume["name"] for volume in spec["volumes"]}
    assert [mount["mountPath"] for mount in mounted.values() if not mount.get("readOnly")] == [
        "/tmp"
    ]


def test_the_crontab_has_five_fields_and_no_percent_sign() -> None:
    jobs = [line for line in CRONTAB.read_text().splitlines() if re.match(r"[\d*]", line)]
    assert len(jobs) == 1
    assert re.match(r"(\S+ ){5}cd ", jobs[0])
    assert "%" not in jobs[0]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text().replace("/srv/lookout/.venv/bin/python", sys.executable)
        (tmp_path / unit.name).write_text(text)
    files = [str(tmp_path / unit.name) for unit in UNITS]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "lookout" in line]
    assert ours == []


def test_the_schedule_is_asked_to_stop_and_started_again_after_a_crash() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read(DEPLOY / "systemd" / "lookout-schedule.service")
    service = unit["Service"]
    assert (service["Restart"], service["KillMode"]) == ("on-failure", "mixed")
    assert int(service["TimeoutStopSec"]) >= 30
