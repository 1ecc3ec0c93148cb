"""All benchmarks, one after the other: `mlflow run . -e bench`, about three minutes.

Scenes are measured where LOOKOUT_DATA names a folder with `scenes` and `weights`, else the digits.
Times on shared machines vary: compare those of one run, and look at the ratios.
"""

import os
import tempfile
from pathlib import Path

from benchmarks import data, epochs, features, places


def main() -> None:
    """Prints every table."""
    source, weights = places.source(), places.shared("weights")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["LOOKOUT_CACHE"] = cache
        data.main(source)
        epochs.main(source)
        epochs.waits(source)
        features.main(source, Path(weights) if weights else None)


if __name__ == "__main__":
    main()
