"""NannyML's CBPE in an environment of its own: estimated accuracies of draws, as a JSON list.

    python -m benchmarks.peers.nanny ROWS.parquet DRAWS.npz ANSWERS.json

ROWS.parquet: `label`, `truth`, and `p_CLASS` for every class; DRAWS.npz: `reference` and `current`,
rows of it, a draw a line. CBPE calibrates the probabilities on the reference, as its default is.
"""

import json
import sys
from pathlib import Path

import nannyml
import numpy as np
import pandas as pd


def main(rows: str, draws: str, answers: str) -> None:
    """Answers the draws, each of which is one chunk."""
    table = pd.read_parquet(rows)
    with np.load(draws) as given:
        sides = zip(given["reference"], given["current"], strict=True)
        found = [_estimate(table.iloc[one], table.iloc[other]) for one, other in sides]
    Path(answers).write_text(json.dumps(found))


def _estimate(reference: pd.DataFrame, current: pd.DataFrame) -> float:
    """Accuracy, 0..1."""
    columns = {name[2:]: name for name in reference.columns if name.startswith("p_")}
    estimator = nannyml.CBPE(
        y_pred_proba=columns,
        y_pred="label",
        y_true="truth",
        problem_type="classification_multiclass",
        metrics=["accuracy"],
        chunk_size=len(current),
    )
    estimator.fit(reference.reset_index(drop=True))
    found = estimator.estimate(current.drop(columns="truth").reset_index(drop=True))
    return float(found.filter(period="analysis").to_df()["accuracy"]["value"].iloc[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
