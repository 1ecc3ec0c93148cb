"""How databases are named."""

from pathlib import Path

import pytest

from pipelines import database
from serving.uri import without_password


def test_a_password_is_not_logged() -> None:
    url = "postgresql://user:secret@host:5432/optuna"
    assert without_password(url) == "postgresql://user@host:5432/optuna"
    query = "postgresql://host/optuna?user=me&password=secret&sslpassword=secret&sslmode=require"
    public = without_password(query)
    assert public == "postgresql://host/optuna?sslmode=require&user=me"
    plain = "sqlite:///optuna.db"
    assert without_password(plain) == plain


def test_a_file_is_found_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert database.from_anywhere("sqlite:///optuna.db") == f"sqlite:///{tmp_path}/optuna.db"
    for same in ("postgresql://user:pw@host/db", "sqlite:////root/optuna.db", "sqlite://"):
        assert database.from_anywhere(same) == same
