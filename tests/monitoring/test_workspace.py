import json
import subprocess
import sys
import uuid

import pytest

from monitoring.workspace import project_id, publish
from serving.settings import UserError

WRITER = """
import sys
from pathlib import Path
from monitoring.workspace import project_id, publish

staged, folder = map(Path, sys.argv[1:])
for number in range(20):
    project_id(folder, "scenes")
    publish(staged, folder)
"""


@pytest.fixture
def staged(tmp_path):
    """What Evidently would write: a project with one run."""
    folder = tmp_path / "staged"
    project = folder / str(project_id(folder, "scenes"))
    (project / "snapshots").mkdir(parents=True)
    (project / "metadata.json").write_text(json.dumps({"name": "scenes"}))
    (project / "snapshots" / f"{uuid.uuid4()}.json").write_text(json.dumps(["x" * 1_000_000]))
    return folder


def test_processes_that_write_at_once_make_one_project_and_whole_files(staged, tmp_path):
    folder = tmp_path / "workspace"
    command = [sys.executable, "-c", WRITER, str(staged), str(folder)]
    writers = [subprocess.Popen(command) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert sorted(names) == sorted(p.relative_to(staged) for p in staged.rglob("*.json"))
    assert all((folder / name).read_bytes() == (staged / name).read_bytes() for name in names)


def test_a_project_keeps_its_id_whatever_it_is_called_and_wherever_it_lies(staged, tmp_path):
    made = project_id(tmp_path / "elsewhere", "scenes")
    (staged / str(made) / "metadata.json").write_text(json.dumps({"name": "renamed"}))
    assert project_id(staged, "scenes") == made
    assert project_id(staged, "renamed") == made
    assert project_id(staged, "another") not in {made, project_id(staged, "a third")}


def test_a_half_made_project_and_what_systems_leave_do_not_stop_a_check(tmp_path):
    for name in ("lost+found", ".trash", str(uuid.uuid4())):
        (tmp_path / name).mkdir()
    assert project_id(tmp_path, "scenes").version == 5


def test_a_damaged_project_is_named(staged):
    path = staged / str(project_id(staged, "scenes")) / "metadata.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"metadata\.json to describe a project"):
        project_id(staged, "another")


def test_a_workspace_that_cannot_be_written_is_said(staged, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Expected to write the Evidently workspace"):
        publish(staged, tmp_path / "file")
