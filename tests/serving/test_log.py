"""The inference log, in real databases, from one process and from several."""

import base64
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from benchmarks import load
from monitoring.features import features
from serving import log as inference
from serving.features import FEATURES
from serving.log import ANSWERS, Log
from serving.predictor import Predictor
from tests.serving.servers import ROOT, Servers, picture, split


def row(number: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "time": datetime.now(UTC),
        "request_id": f"request-{number}",
        "position": 0,
        "model_name": "colours",
        "model_version": "1",
        "label": "red",
        "confidence": 0.75,
        "probabilities": {"red": 0.75, "blue": 0.25},
        **more,
    }


def rows(path: Path, query: str = "SELECT * FROM answers ORDER BY id") -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute(query).fetchall()


def wait_for(condition: Any, seconds: float = 10) -> float:
    """Seconds until the condition holds."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "it never held"
        time.sleep(0.02)
    return time.monotonic() - begun


def test_a_row_is_written_within_a_second(tmp_path: Path) -> None:
    log = Log(f"sqlite:///{tmp_path}/log.db")
    log.put([row()])
    log.close()
    later = Log(f"sqlite:///{tmp_path}/log.db")
    later.put([row(1)])
    assert wait_for(lambda: later.written == 1) < 1
    later.close()
    found = rows(tmp_path / "log.db")
    assert [one["request_id"] for one in found] == ["request-0", "request-1"]
    assert json.loads(found[0]["probabilities"]) == {"red": 0.75, "blue": 0.25}
    assert found[0]["image"] is None
    assert abs(
        datetime.fromisoformat(found[0]["time"]) - datetime.now(UTC).replace(tzinfo=None)
    ) < (timedelta(minutes=1))


@pytest.fixture
def logged(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """A model that logs, and keeps its images."""
    monkeypatch.setenv("LOOKOUT_LOG", f"sqlite:///{tmp_path}/log.db")
    monkeypatch.setenv("LOOKOUT_LOG_IMAGES", str(tmp_path / "images"))
    model = Predictor()
    model.load_context(SimpleNamespace(artifacts={"model": str(model_folder)}))
    return model


def test_every_answered_image_has_a_row_of_what_monitoring_measures(
    logged: Predictor, tmp_path: Path
) -> None:
    images = [picture(1), picture(2, "PNG"), picture(1)]
    told = logged.predict(None, pd.DataFrame({"image": images}))
    logged.log.close()
    found = rows(tmp_path / "log.db")
    assert len(found) == 3
    assert len({one["request_id"] for one in found}) == 1
    for position, (one, image) in enumerate(zip(found, images, strict=True)):
        assert one["position"] == position
        assert one["label"] == told["label"][position]
        assert one["confidence"] == told["confidence"][position]
        assert json.loads(one["probabilities"]) == told["probabilities"][position]
        assert {name: one[name] for name in FEATURES} == pytest.approx(features(image))
        assert Path(one["image"]).read_bytes() == image
    assert found[0]["content"] == found[2]["content"] != found[1]["content"]
    assert Path(found[1]["image"]).suffix == ".png"


def test_a_large_photo_is_measured_as_monitoring_does(logged: Predictor, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((900, 600)).convert("RGB").save(file, "JPEG")
    logged.predict(None, pd.DataFrame({"image": [file.getvalue()]}))  # 8 px: another fraction
    logged.log.close()
    (found,) = rows(tmp_path / "log.db")
    assert {name: found[name] for name in FEATURES} == pytest.approx(features(file.getvalue()))


def test_an_answer_does_not_fail_because_the_log_does(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").write_text("in the way of a database")
    monkeypatch.setenv("LOOKOUT_LOG", f"sqlite:///{tmp_path}/folder/log.db")
    model = Predictor()
    model.load_context(SimpleNamespace(artifacts={"model": str(model_folder)}))
    assert len(model.predict(None, pd.DataFrame({"image": [picture(1)]}))) == 1
    model.log.close(0.1)
    monkeypatch.setattr(model.log, "put", lambda _: 1 / 0)
    assert len(model.predict(None, pd.DataFrame({"image": [picture(1)]}))) == 1


def test_rows_wait_for_a_database_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inference, "RETRY", 0.05)
    folder = tmp_path / "later"
    log = Log(f"sqlite:///{folder}/log.db")
    log.put([row(number) for number in range(5)])
    wait_for(lambda: "cannot be written" in caplog.text)
    assert (log.written, log.dropped) == (0, 0)
    folder.mkdir()
    wait_for(lambda: log.written == 5)
    log.close()
    assert len(rows(folder / "log.db")) == 5


def test_what_has_no_room_is_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "MAX_ROWS", 10)
    log = Log(f"sqlite:///{tmp_path}/log.db")
    log.put([row(number) for number in range(25)])
    assert log.dropped == 15
    log.close()
    assert len(rows(tmp_path / "log.db")) == log.written == 10


def test_images_that_wait_are_bounded_by_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "MAX_BYTES", 2500)
    log = Log(f"sqlite:///{tmp_path}/log.db", str(tmp_path / "images"))
    waiting = [row(n, image=bytes(1000), content=f"c{n}", format="PNG") for n in range(4)]
    log.put(waiting)
    assert log.dropped == 2
    log.close()
    assert log.queued == 0
    assert sorted(path.name for path in (tmp_path / "images").rglob("*.png")) == [
        "c0.png",
        "c1.png",
    ]


def test_a_row_that_no_database_takes_does_not_hold_up_the_others(tmp_path: Path) -> None:
    log = Log(f"sqlite:///{tmp_path}/log.db")
    log.put([row(label=None)])
    wait_for(lambda: log.dropped == 1)
    log.put([row(1)])
    log.close()
    assert (log.written, log.dropped) == (1, 1)


def test_what_is_too_old_is_removed(tmp_path: Path) -> None:
    database = tmp_path / "log.db"
    old = datetime.now(UTC) - timedelta(days=3)
    forever = Log(f"sqlite:///{database}", str(tmp_path / "images"))
    image = {"image": b"bytes", "content": "c", "format": "JPEG"}
    forever.put([row(0, time=old, **image), row(1, **image)])
    forever.close()
    (tmp_path / "images" / "mine").mkdir()
    assert len(list((tmp_path / "images").rglob("c.jpg"))) == 2
    log = Log(f"sqlite:///{database}", str(tmp_path / "images"), days=2)
    log.put([row(2)])
    log.close()
    assert [one["request_id"] for one in rows(database)] == ["request-1", "request-2"]
    assert len(list((tmp_path / "images").rglob("c.jpg"))) == 1
    assert (tmp_path / "images" / "mine").is_dir()


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"LOOKOUT_LOG": "nonsense"}, "Expected the URL of a database"),
        ({"LOOKOUT_LOG": "mysql://name:secret@host/base"}, "Expected the URL of a database"),
        ({"LOOKOUT_LOG": "sqlite://"}, "Expected the URL of a database"),
        ({"LOOKOUT_LOG": "sqlite:///a.db", "LOOKOUT_LOG_DAYS": "many"}, "Expected days"),
        ({"LOOKOUT_LOG": "sqlite:///a.db", "LOOKOUT_LOG_DAYS": "-1"}, "Expected 0 or more days"),
    ],
)
def test_settings_that_cannot_be_meant_are_told_without_secrets(
    variables: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=sentence) as refused:
        inference.from_environment()
    assert "secret" not in str(refused.value)


WRITE = """
import sys
from tests.serving.test_log import row
from serving.log import Log
log = Log(sys.argv[1])
for number in range(200):
    log.put([row(number, model_name=sys.argv[2])])
"""


def test_images_are_kept_by_a_process_that_ends_without_closing_the_log(tmp_path: Path) -> None:
    write = WRITE.replace("Log(sys.argv[1])", "Log(sys.argv[1], sys.argv[3])").replace(
        "model_name=sys.argv[2]", "image=b'bytes', content=str(number), format='PNG'"
    )
    command = [sys.executable, "-c", write, f"sqlite:///{tmp_path}/log.db", "", str(tmp_path / "i")]
    subprocess.run(command, cwd=ROOT, check=True)
    found = rows(tmp_path / "log.db")
    assert len(found) == 200
    assert all(Path(one["image"]).read_bytes() == b"bytes" for one in found)


def test_a_log_of_an_older_version_gets_the_columns_that_it_lacks(tmp_path: Path) -> None:
    database = tmp_path / "log.db"
    first = Log(f"sqlite:///{database}")
    first.put([row(0)])
    first.close()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("ALTER TABLE answers DROP COLUMN noise")
        connection.commit()
    log = Log(f"sqlite:///{database}")
    log.put([row(1, noise=2.5)])
    log.close()
    assert [one["noise"] for one in rows(database)] == [None, 2.5]


def write_from_processes(url: str, count: int = 4) -> None:
    """Each writes 200 rows, and ends without closing the log."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE, url, f"writer {n}"], cwd=ROOT)
        for n in range(count)
    ]
    assert [writer.wait(120) for writer in writers] == [0] * count


def test_several_processes_write_at_once_and_flush_at_exit(tmp_path: Path) -> None:
    write_from_processes(f"sqlite:///{tmp_path}/log.db")
    counts = rows(tmp_path / "log.db", "SELECT model_name, count(*) FROM answers GROUP BY 1")
    assert [tuple(one) for one in counts] == [(f"writer {n}", 200) for n in range(4)]


@pytest.mark.postgres
def test_postgresql_takes_rows_and_corrections(database: str) -> None:
    write_from_processes(database)
    log = Log(database)
    log.correct(b"image", {**texts(), "label": "green"})
    with log._engine.connect() as connection:
        assert len(connection.execute(ANSWERS.select()).all()) == 800
        (told,) = connection.execute(inference.FEEDBACK.select()).all()
    assert (told.label, told.answered, told.image) == ("green", "red", b"image")
    assert told.time.tzinfo is not None
    log._engine.dispose()


def texts() -> dict[str, str]:
    return {
        "request_id": "request",
        "model_name": "colours",
        "model_version": "1",
        "answered": "red",
    }


S3 = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.s3
def test_images_are_kept_in_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("moto", reason="Moto is not installed (requirements-dev.txt)")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", S3], stdin=pipe, stdout=pipe, text=True) as store:
        assert store.stdout
        port = next(line for line in store.stdout if line.strip().isdigit())
        url = f"http://127.0.0.1:{port.strip()}"
        for name, value in {
            "MLFLOW_S3_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        bucket = boto3.resource("s3", endpoint_url=url).create_bucket(Bucket="photos")
        log = Log(f"sqlite:///{tmp_path}/log.db", "s3://photos/kept")
        log.put([row(n, image=picture(n), content=f"c{n}", format="JPEG") for n in range(3)])
        log.close()
        found = rows(tmp_path / "log.db")
        kept = {obj.key: obj.get()["Body"].read() for obj in bucket.objects.all()}
        store.communicate()
    assert len(kept) == 3
    for number, one in enumerate(found):
        key = re.fullmatch(r"s3://photos/(kept/[\d-]+/c\d\.jpg)", one["image"])
        assert key
        assert kept[key[1]] == picture(number)


def test_the_stock_command_logs_with_several_workers_and_flushes_when_it_is_stopped(
    servers: Servers, store: str
) -> None:
    log = {"LOOKOUT_LOG": "sqlite:///{database}"}
    server = servers.mlflow(store, "models:/colours@champion", "--workers", "2", **log)
    images = [split(text(number)) for number in range(5)]
    stopped: list[float] = []

    def stop() -> None:
        stopped.append(time.perf_counter())
        os.killpg(server.process.pid, signal.SIGTERM)

    threading.Timer(2, stop).start()
    result = load.run(f"{server.url}/invocations", images, clients=4, seconds=6, keep=True)
    server.process.wait(60)
    # uvicorn ends itself by the signal: the last answers' rows may be lost.
    answered = [a for a in result.answers if a.status == 200 and a.arrived < stopped[0] - 0.2]
    assert len(answered) > 50
    found = server.rows()
    assert len(found) >= len(answered)
    assert {(one["model_name"], one["model_version"]) for one in found} == {("colours", "1")}
    assert len({one["request_id"] for one in found}) == len(found)


def test_what_was_answered_a_second_before_a_kill_is_in_the_log(
    servers: Servers, store: str
) -> None:
    server = servers.app(store, "models:/colours@champion")
    killed: list[float] = []

    def kill() -> None:
        os.killpg(server.process.pid, signal.SIGKILL)
        killed.append(time.perf_counter())

    threading.Timer(3, kill).start()
    result = load.run(
        f"{server.url}/predict",
        [picture(number) for number in range(5)],
        clients=8,
        seconds=4,
        content_type="image/jpeg",
        keep=True,
    )
    server.process.wait(60)
    answered = [
        json.loads(answer.body)["request_id"]
        for answer in result.answers
        if answer.status == 200 and answer.arrived < killed[0] - 1
    ]
    assert len(answered) > 100
    assert set(answered) <= {one["request_id"] for one in server.rows()}


def text(number: int) -> str:
    return base64.b64encode(picture(number)).decode()
