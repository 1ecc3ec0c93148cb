"""The server that `mlflow models serve` starts, asked as its users ask it."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from serving import registered
from tests.serving.servers import ROOT, Server, Servers, huge, picture, split

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
CHAMPION = "models:/colours@champion"
IMAGES = [picture(1), picture(2), picture(3, "PNG")]
TEXTS = [base64.b64encode(image).decode() for image in IMAGES]


def parquet(values: list[Any], column: str = "image") -> bytes:
    file = io.BytesIO()
    pd.DataFrame({column: pd.Series(values, dtype=object)}).to_parquet(file)
    return file.getvalue()


def ask(server: Server, body: bytes, kind: str | None = JSON) -> tuple[int, str]:
    """Status and body of the answer."""
    answer = server.ask("/invocations", body, kind)
    return answer.status, answer.body.decode()


@pytest.fixture(scope="module")
def server(servers: Servers, store: str) -> Server:
    """A server of the champion, started in a folder that holds nothing of ours."""
    return servers.mlflow(store, CHAMPION)


def test_every_form_of_request_is_answered_as_in_python(
    server: Server, tracking: MlflowClient
) -> None:
    forms = {
        "dataframe_split": (split(*TEXTS), JSON),
        "dataframe_records": (
            json.dumps({"dataframe_records": [{"image": text} for text in TEXTS]}).encode(),
            JSON,
        ),
        "inputs, by column": (json.dumps({"inputs": {"image": TEXTS}}).encode(), JSON),
        "inputs, a list": (json.dumps({"inputs": TEXTS}).encode(), JSON),
        "inputs, records": (
            json.dumps({"inputs": [{"image": text} for text in TEXTS]}).encode(),
            JSON,
        ),
        "instances": (
            json.dumps({"instances": [{"image": text} for text in TEXTS]}).encode(),
            JSON,
        ),
        "wrapped base64": (split(*map(base64_lines, IMAGES)), f"{JSON}; charset=utf-8"),
        "Parquet": (parquet(IMAGES), PARQUET),
        "Parquet of text": (parquet(TEXTS), PARQUET),
        "CSV": ("\n".join(["image", *TEXTS]).encode(), CSV),
    }
    expected = mlflow.pyfunc.load_model(CHAMPION).predict(pd.DataFrame({"image": IMAGES}))
    classifier = registered.load(CHAMPION).classifier
    own = classifier.probabilities(np.stack([classifier.decode(image) for image in IMAGES]))
    np.testing.assert_allclose(
        [list(row.values()) for row in expected["probabilities"]], own, atol=1e-6
    )
    for form, (body, kind) in forms.items():
        status, answer = ask(server, body, kind)
        assert status == 200, (form, answer)
        told = json.loads(answer)["predictions"]
        assert [row["label"] for row in told] == list(expected["label"]), form
        for row, probabilities, values in zip(told, expected["probabilities"], own, strict=True):
            assert row.keys() == {"label", "confidence", "probabilities"}
            assert row["probabilities"] == pytest.approx(probabilities, abs=1e-6), form
            assert row["confidence"] == pytest.approx(values.max(), abs=1e-6), form


ELSEWHERE = """
import base64, json, sys
import serving.predictor as other
import mlflow
import pandas as pd

assert other.OF == "another version"
image = base64.b64decode(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/colours@champion")
told = model.predict(pd.DataFrame({"image": [image]}))
assert other.OF == "another version"
print(json.dumps(told.to_dict("records")))
"""


def test_the_same_bytes_are_answered_alike_by_every_way(
    server: Server, store: str, tmp_path: Path
) -> None:
    _, body = ask(server, split(TEXTS[0]))
    expected = json.loads(body)["predictions"]
    _, together = ask(server, split(*reversed(TEXTS)))
    assert json.loads(together)["predictions"][-1:] == expected
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": store,
        "LOOKOUT_LOG": f"sqlite:///{tmp_path}/log.db",
    }

    def run(*command: str, where: Path = tmp_path) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=where,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    # In a process that holds another version of this project's code.
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "__init__.py").touch()
    (tmp_path / "serving" / "predictor.py").write_text('OF = "another version"')
    assert json.loads(run("-c", ELSEWHERE, TEXTS[0])) == expected

    (tmp_path / "request.json").write_bytes(split(TEXTS[0]))
    request = ["-m", CHAMPION, "-i", "request.json", "-o", "answer.json", "-t", "json"]
    run("-m", "mlflow", "models", "predict", *request, "--env-manager", "local")
    assert json.loads((tmp_path / "answer.json").read_text())["predictions"] == expected

    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.jpg").write_bytes(IMAGES[0])
    images, output = f"--images={tmp_path}/images", f"--output={tmp_path}/scores.parquet"
    environment["MLFLOW_EXPERIMENT_NAME"] = "monitoring"
    run("-m", "pipelines.score", f"--model={CHAMPION}", images, output, where=ROOT)
    (scored,) = pd.read_parquet(tmp_path / "scores.parquet").to_dict("records")
    assert scored["label"] == expected[0]["label"]
    assert scored["confidence"] == expected[0]["confidence"]
    for name, value in expected[0]["probabilities"].items():
        assert scored[f"p_{name}"] == value


def base64_lines(content: bytes) -> str:
    return base64.encodebytes(content).decode()


BAD = {
    "bytes that are no image": (
        split(base64.b64encode(b"no image at all").decode()),
        "Image 0 cannot be read: not an image of a known format (JPEG, PNG, BMP, GIF, WEBP, TIFF).",
    ),
    "the second image": (split(TEXTS[0], "AAAA"), "Image 1 cannot be read: not an image of"),
    "a truncated image": (
        split(base64.b64encode(IMAGES[2][:900]).decode()),
        "Image 0 cannot be read: broken or truncated image",
    ),
    "no base64": (split("this is not base64!"), "Expected a column `image` of image bytes, in"),
    "no ASCII": (split("€€€€"), "Image 0 cannot be read: empty file."),
    "no base64 in inputs": (b'{"inputs": ["this is not!"]}', "Image 0 cannot be read: not an"),
    "no ASCII in inputs": (b'{"inputs": ["\xe2\x82\xac"]}', "Expected a column `image`"),
    "a missing column": (
        split(TEXTS[0], column="picture"),
        "Expected a column `image` of image bytes, in Parquet, or as base64 in the dataframe_split,"
        " dataframe_records or inputs of JSON, but: Model is missing inputs ['image'].",
    ),
    "a number": (split(5), "Expected a column `image`"),
    "a number in inputs": (b'{"inputs": [5]}', "Image 0 cannot be read"),
    "null": (split(None), "Expected a column `image`"),
    "a list": (split(TEXTS[:2]), "Expected a column `image`"),
    "no rows": (split(), "Expected at least one image, got none."),
    "no records": (b'{"dataframe_records": []}', "Expected a column `image`"),
    "an empty text": (split(""), "Image 0 cannot be read: empty file."),
    "an empty body": (b"", "Expected a column `image`"),
    "an empty object": (b"{}", "Expected a column `image`"),
    "a list as the body": (b"[1]", "Expected a column `image`"),
    "broken JSON": (split(TEXTS[0])[:-3], "Expected a column `image`"),
    "JSON of another encoding": (b"\xff\xfe{", "Expected a column `image`"),
    "deep JSON": (b"[" * 50_000, "Expected a column `image`"),
    "many lists": (b"[" * 200_000, "Expected at most 100,000 commas, brackets and line breaks"),
    "many digits": (b'{"inputs": [' + b"1" * 5000 + b"]}", "Expected a column `image`"),
    "many pixels": (
        split(base64.b64encode(huge()).decode()),
        "Image 0 cannot be read: more pixels than the bound of 64,000,000.",
    ),
    "many images": (
        split(*[TEXTS[0]] * 1001),
        "Expected at most 1,000 images a request, got 1,001.",
    ),
}
TOO_MUCH = ("many pixels", "many images", "many lists", "many rows of CSV", "Parquet of one image")
BAD_TABLES = {
    "broken Parquet": (b"PAR1 or not", PARQUET, "Expected a column `image`"),
    "Parquet without the column": (
        parquet(IMAGES, "picture"),
        PARQUET,
        "Expected a column `image`",
    ),
    "Parquet of numbers": (parquet([1, 2]), PARQUET, "Expected a column `image`"),
    "Parquet with a gap": (
        parquet([IMAGES[0], None]),
        PARQUET,
        "Image 1: expected the bytes of an image, got NoneType.",
    ),
    "Parquet without rows": (parquet([]), PARQUET, "Expected at least one image, got none."),
    "Parquet of one image": (
        parquet([IMAGES[0]] * 5000),
        PARQUET,
        "Expected at most 1,000 images a request, in a table of at most 536,870,912 bytes",
    ),
    "broken CSV": (b"", CSV, "Expected a column `image`"),
    "many rows of CSV": (b"image\n" + b"A\n" * 200_000, CSV, "Expected at most 100,000 commas"),
}


# What follows the sentence about the column, which is the same for all of them.
REASONS = {
    "no base64": "but: Incorrect padding.",
    "a number": "but: encoding without a string argument.",
    "no records": "but: Model is missing inputs ['image'].",
    "an empty body": "but: Expecting value: line 1 column 1 (char 0).",
    "an empty object": "but: The input must be a JSON dictionary with exactly one of the input",
    "a list as the body": "but: The input must be a JSON dictionary with exactly one of the input",
    "broken JSON": "but: Expecting ',' delimiter: line 1 column",
    "broken Parquet": "but: Could not open Parquet input source",
    "Parquet of numbers": "but: Incompatible input types for column image.",
    "broken CSV": "but: No columns to parse from file.",
}


@pytest.mark.parametrize("name", [*BAD, *BAD_TABLES])
def test_a_bad_request_is_refused_in_one_sentence(server: Server, name: str) -> None:
    if name in BAD:
        (body, sentence), kind = BAD[name], JSON
    else:
        body, kind, sentence = BAD_TABLES[name]
    status, answer = ask(server, body, kind)
    assert status == (413 if name in TOO_MUCH else 400), answer
    told = json.loads(answer)
    assert told.keys() == {"error_code", "message"}
    assert told["message"].startswith(sentence)
    assert REASONS.get(name, "") in told["message"]
    assert told["message"].endswith(".")
    assert "\n" not in told["message"]
    assert "Traceback" not in answer
    assert len(answer) < 500


@pytest.mark.parametrize("kind", ["image/jpeg", "text/plain", "", None])
def test_another_content_type_is_refused_with_the_choices(server: Server, kind: str | None) -> None:
    status, answer = ask(server, IMAGES[0], kind)
    assert status == 415
    assert "Traceback" not in answer
    assert JSON in answer
    assert PARQUET in answer


def test_the_server_answers_after_all_that(server: Server) -> None:
    status, answer = ask(server, split(TEXTS[0]))
    assert (status, len(json.loads(answer)["predictions"])) == (200, 1)
