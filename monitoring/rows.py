"""Rows of the inference log as columns: of a million answers, no object is kept for each."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitoring.features import told
from monitoring.sources import listed, require_classes
from serving.features import FEATURES
from serving.settings import UserError

CELLS = 400_000  # probabilities fetched at once


def at_once(classes: int) -> int:
    """How many rows of so many probabilities to fetch at once."""
    return max(200, min(20_000, CELLS // classes))


class Rows:
    """Columns of the log as they come, without an object a row.

    classes: of the model; log: its name in an error.
    """

    def __init__(self, classes: Sequence[str], log: str) -> None:
        self._classes, self._log = classes, log
        self._ids: list[np.ndarray[Any, Any]] = []
        self._shares: list[np.ndarray[Any, Any]] = []
        self._features: list[np.ndarray[Any, Any]] = []
        self._embeddings: list[list[bytes | None]] = []
        self._keep: np.ndarray[Any, Any] = np.empty(0, bool)

    def add(self, rows: Sequence[Any]) -> None:
        """Takes rows: id, probabilities as text, embedding, FEATURES."""
        columns = list(zip(*rows, strict=True))
        self._ids.append(np.array(columns[0], np.int64))
        self._shares.append(self._parsed(columns[1]))
        self._embeddings.append(list(columns[2]))
        self._features.append(np.array(columns[3:], np.float32).T)

    def _parsed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Probabilities (rows, classes); NaN for those that are none."""
        try:
            known = json.loads(f"[{','.join(texts)}]")
            if len(known) != len(texts) or not all(isinstance(one, dict) for one in known):
                raise ValueError("an answer that holds no object")
            self._require_classes(known)
            values = np.array([[one[name] for name in self._classes] for one in known], np.float32)
        except (ValueError, TypeError, RecursionError):  # one row at a time, to find which
            if len(texts) == 1:
                return np.full((1, len(self._classes)), np.nan, np.float32)
            return np.concatenate([self._parsed([text]) for text in texts])
        wrong = ~((values >= 0) & (values <= 1)).all(axis=1)
        values[wrong] = np.nan
        return values

    def _require_classes(self, known: Sequence[dict[str, Any]]) -> None:
        for one in known:
            if len(one) != len(self._classes) or any(name not in one for name in self._classes):
                require_classes(set(one), self._classes, self._log)
                missing = [name for name in self._classes if name not in one]
                raise UserError(
                    f"Expected probabilities of all classes of the model in {self._log}, but some "
                    f"answers have none of {listed(missing)}; is it the log of this model?"
                )

    def frame(self) -> tuple[pd.DataFrame, list[str]]:
        """The frame of all rows that are whole, and what was left out, in sentences."""
        size = sum(map(len, self._ids))
        if not size:
            return told(np.empty((0, len(self._classes))), np.empty((0, 0)), self._classes), []
        shares, scalars = np.concatenate(self._shares), np.concatenate(self._features)
        embeddings, sees = self._seen(size)
        measured = np.isfinite(scalars).all(axis=1)
        left_out = []
        with_features, with_embeddings = 2 * measured.sum() >= size, 2 * sees.sum() >= size
        self._keep = np.isfinite(shares).all(axis=1)
        if broken := size - int(self._keep.sum()):
            left_out.append(f"{broken:,} answers hold no probabilities, and are left out.")
        if with_features:
            self._keep &= measured
        else:
            left_out.append("The log holds no image features of most answers: not compared.")
        if with_embeddings:
            self._keep &= sees
        else:
            left_out.append("The log holds no embeddings of most answers: not compared.")
        if missing := size - broken - int(self._keep.sum()):
            left_out.append(f"{missing:,} answers lack features or embedding, and are left out.")
        if not self._keep.all():
            shares, scalars, embeddings = (
                values[self._keep] for values in (shares, scalars, embeddings)
            )
        if not with_embeddings:
            embeddings = embeddings[:, :0]
        table = told(shares, embeddings, self._classes)
        if with_features:
            own = pd.DataFrame(scalars, columns=list(FEATURES))
            table = pd.concat([table, own], axis=1)
        return table, left_out

    def identities(self) -> np.ndarray[Any, Any]:
        """The log's ids of the frame's rows."""
        return np.concatenate(self._ids)[self._keep] if self._ids else np.empty(0, np.int64)

    def _seen(self, size: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Embeddings (rows, width), and of which rows they are known."""
        lengths = np.array([len(e) if e else 0 for part in self._embeddings for e in part])
        usable = lengths[(lengths > 0) & (lengths % 2 == 0)]
        width = int(np.bincount(usable).argmax()) if len(usable) else 0
        found = np.zeros((size, width // 2), np.float16)  # as the log has them
        start = 0
        for part in self._embeddings:
            blank = bytes(width)
            content = b"".join(e if e and len(e) == width else blank for e in part)
            if width:
                found[start : start + len(part)] = np.frombuffer(content, "<f2").reshape(
                    len(part), -1
                )
            start += len(part)
        whole = (lengths == width) & (width > 0)
        return found, whole & np.isfinite(found).all(axis=1)
