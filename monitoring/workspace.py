"""The folder of an Evidently workspace: whose it is, and files that appear in it whole.

`evidently ui` watches the folder while checks write to it, and a process may end at any line. So a
file is written beside its place and then linked to it: whoever looks finds all of it or nothing,
and of two processes that make the same file the first has made it. (A rename would do, but the
watch of Evidently 0.7 sees none.)
"""

import json
import os
import uuid
from pathlib import Path

from serving.durable import SUFFIX
from serving.settings import UserError, require

NAMES = uuid.UUID("5b0a2f5e-3a64-4d0f-9d6b-0f7b2b1f6f11")  # so that a name has one id everywhere
METADATA = "metadata.json"
IGNORED = frozenset({"lost+found"})


def project_id(folder: Path, name: str) -> uuid.UUID:
    """The id of the project in a workspace, or the one that it will have.

    Raises UserError where `folder` is neither a workspace nor empty nor missing.
    """
    projects = _projects(folder)
    own = uuid.uuid5(NAMES, name)
    if str(own) in projects:
        return own
    alike = (project for project, title in projects.items() if title == name)
    return uuid.UUID(min(alike, default=str(own)))


def publish(staged: Path, folder: Path) -> None:
    """Puts the files below `staged` into the same places of the workspace, those of projects first.

    Files that are there stay. Raises UserError where the workspace cannot be written.
    """
    found = (path.relative_to(staged) for path in staged.rglob("*.json"))
    try:
        for path in sorted(found, key=lambda path: (path.name != METADATA, len(path.parts), path)):
            _link((staged / path).read_bytes(), folder / path)
    except OSError as error:
        raise UserError(
            f"Expected to write the Evidently workspace {folder}, but that failed: "
            f"{error.strerror}."
        ) from error


def _projects(folder: Path) -> dict[str, str]:
    """Names of the projects by id."""
    if not folder.exists():
        return {}
    require(
        folder.is_dir(), f"Expected a folder for Evidently's workspace, but {folder} is a file."
    )
    visible = [p for p in folder.iterdir() if p.name[0] != "." and p.name not in IGNORED]
    projects = [path for path in visible if path.is_dir() and _is_id(path.name)]
    require(
        bool(projects) or not visible,
        f"Expected an Evidently workspace or an empty folder, but {folder} holds other files; "
        "give another folder.",
    )
    return {path.name: _name(path / METADATA) for path in projects}


def _name(metadata: Path) -> str:
    try:
        return str(json.loads(metadata.read_text())["name"])
    except FileNotFoundError:  # another process has only just begun it
        return ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"Expected {metadata} to describe a project of Evidently, but it does not; "
            "mend it, or give another folder."
        ) from error


def _is_id(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name.lower()
    except ValueError:
        return False


def _link(content: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}{SUFFIX}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(temporary)
    except FileExistsError:
        return
    finally:
        temporary.unlink(missing_ok=True)
