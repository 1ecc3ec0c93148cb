"""A cache entry is whole or absent, whoever writes it and whatever stops them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines import cache

ROOT = Path(__file__).parents[2]
SHAPE = (4, 100_000)

# Says when half is written, then waits for a line before it writes the rest.
WRITE = f"""
import sys
from pathlib import Path
import numpy as np
from pipelines import cache

def rows():
    for row in range({SHAPE[0]}):
        if row == {SHAPE[0]} // 2:
            print("half", flush=True)
            sys.stdin.readline()
        yield np.full((1, {SHAPE[1]}), row)

array = cache.array(Path(sys.argv[1]), rows(), {SHAPE}, np.int64)
print(array.sum())
"""


def write(path: Path) -> subprocess.Popen[str]:
    """A process that has written half of an entry."""
    command = [sys.executable, "-c", WRITE, str(path)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    return process


def rows() -> Iterator[NDArray[np.int64]]:
    for row in range(SHAPE[0]):
        yield np.full((1, SHAPE[1]), row)


def fails() -> Iterator[NDArray[np.int64]]:
    yield np.zeros((1, SHAPE[1]), np.int64)
    raise OSError(28, "No space left on device")


def never() -> Iterator[NDArray[np.int64]]:
    raise AssertionError("computed again")
    yield


def test_an_entry_is_computed_once_and_then_mapped_read_only(tmp_path: Path) -> None:
    first = cache.array(tmp_path / "entry.npy", rows(), SHAPE, np.int64)
    second = cache.array(tmp_path / "entry.npy", never(), SHAPE, np.int64)
    assert np.array_equal(first, second)
    assert isinstance(second, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        second[0] = 1


def test_an_entry_has_the_type_that_was_asked_for(tmp_path: Path) -> None:
    array = cache.array(tmp_path / "entry.npy", rows(), SHAPE, np.float32)
    assert array.dtype == np.float32
    assert array[:, 0].tolist() == [0, 1, 2, 3]


def test_nothing_is_left_where_the_rows_cannot_be_computed(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        cache.array(tmp_path / "entry.npy", fails(), SHAPE, np.int64)
    assert list(tmp_path.iterdir()) == []


def test_an_entry_whose_writer_was_killed_half_way_is_never_used(tmp_path: Path) -> None:
    path = tmp_path / "entry.npy"
    process = write(path)
    process.kill()
    process.communicate()
    half = next(tmp_path.iterdir()).stat().st_size
    assert 0 < half < 8 * SHAPE[0] * SHAPE[1]
    assert not path.exists()
    array = cache.array(path, rows(), SHAPE, np.int64)
    assert array.sum() == 6 * SHAPE[1]


def test_two_processes_that_write_an_entry_at_once_both_succeed(tmp_path: Path) -> None:
    path = tmp_path / "entry.npy"
    processes = [write(path), write(path)]
    answers = [process.communicate("go on\n")[0] for process in processes]
    assert answers == [f"{6 * SHAPE[1]}\n"] * 2
    assert [process.returncode for process in processes] == [0, 0]
    assert list(tmp_path.iterdir()) == [path]


def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKOUT_CACHE", str(tmp_path / "ours"))
    assert cache.folder("pixels") == tmp_path / "ours" / "pixels"
    monkeypatch.delenv("LOOKOUT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache.folder("pixels") == tmp_path / "user" / "lookout" / "pixels"
    assert (tmp_path / "user" / "lookout" / "pixels").is_dir()


def test_a_key_depends_on_every_part_and_on_their_order() -> None:
    keys = {cache.key(*parts) for parts in [("a", "b"), ("b", "a"), ("ab",), ("a",), ("a", 1)]}
    assert len(keys) == 5
    assert cache.key("a", (64, 64)) == cache.key("a", (64, 64))
    assert all(len(key) == 16 for key in keys)


def test_what_a_killed_process_left_is_swept_a_day_later(tmp_path: Path) -> None:
    old, young = tmp_path / ".dead.part", tmp_path / ".alive.part"
    for part in (old, young):
        part.touch()
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    cache.array(tmp_path / "a.npy", [np.zeros((1, 2))], (1, 2), np.float32)
    assert not old.exists()
    assert young.exists()
