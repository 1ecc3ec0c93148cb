"""What every worker needs, imported once in the process that workers are forked from."""

import os

from pipelines.backend import start_up

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads would not survive the fork

with start_up():
    import pipelines.trials  # noqa: F401
