"""Which process is which, and whether it still is."""

import subprocess
import sys
from pathlib import Path

from pipelines import processes


def test_a_process_that_ended_is_gone_and_this_one_is_not() -> None:
    code = "from pipelines import processes; print(processes.name())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert processes.is_gone(done.stdout.strip())
    assert not processes.is_gone(processes.name())
    assert not processes.is_gone("elsewhere:1:0.00")
