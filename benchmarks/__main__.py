"""All benchmarks, one after the other: `mlflow run . -e bench`, about three minutes.

Scenes are measured where LOOKOUT_DATA names a folder with `scenes` and `weights`, else the digits.
Times on shared machines vary: compare those of one run, and look at the ratios.
"""

import os
import tempfile
from pathlib import Path

from benchmarks import data, epochs, features


def main() -> None:
    """Prints every table."""
    folder = os.environ.get("LOOKOUT_DATA", "")
    source = str(Path(folder, "scenes")) if folder else "digits"
    with tempfile.TemporaryDirectory() as cache:
        os.environ["LOOKOUT_CACHE"] = cache
        data.main(source)
        epochs.main(source)
        epochs.waits(source)
        features.main(source, Path(folder, "weights") if folder else None)


if __name__ == "__main__":
    main()
