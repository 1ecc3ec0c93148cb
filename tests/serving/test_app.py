"""The app, as its users ask it: real servers, real images, wrong input of every kind."""

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

from benchmarks import load
from serving.app import AppSettings
from serving.settings import UserError
from tests.serving.servers import JPEG, JSON, ROOT, Server, Servers, form, huge, picture, split

CHAMPION = "models:/colours@champion"
TURNS = "models:/turns@champion"
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
NO_IMAGE = b"no image at all"


def colour(name: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), name).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def server(servers: Servers, store: str) -> Server:
    return servers.app(store, CHAMPION)


def test_an_image_as_it_is_is_answered(server: Server) -> None:
    answer = server.ask("/predict", colour("red"), "image/png", X_Request_ID="mine.1")
    assert answer.status == 200
    told = answer.json
    assert told["request_id"] == answer.headers["X-Request-ID"] == "mine.1"
    assert told["model"] == {"name": "colours", "version": "1"}
    (prediction,) = told["predictions"]
    assert prediction["label"] == "red"
    assert prediction["confidence"] == max(prediction["probabilities"].values())


def test_a_form_of_images_is_answered_in_order(server: Server) -> None:
    names = ["green", "blue", "red", "blue"]
    answer = server.ask("/predict", *form(*(("image", colour(name)) for name in names)))
    assert [one["label"] for one in answer.json["predictions"]] == names


def test_mlflows_own_endpoints_stay_as_they_are(
    server: Server, servers: Servers, store: str
) -> None:
    stock = servers.mlflow(store, CHAMPION)
    body = split(*(text(number) for number in range(3)))
    for path, kind in (("/ping", None), ("/health", None), ("/version", None)):
        ours, theirs = server.ask(path, kind=kind), stock.ask(path, kind=kind)
        assert (ours.status, ours.body) == (theirs.status, theirs.body)
    for request, kind in ((body, JSON), (b"{", JSON), (split("AAAA"), JSON), (body, "text/plain")):
        ours = server.ask("/invocations", request, kind)
        theirs = stock.ask("/invocations", request, kind)
        assert (ours.status, ours.body) == (theirs.status, theirs.body)
        assert ours.headers["Content-Type"] == theirs.headers["Content-Type"]


def text(number: int) -> str:
    return base64.b64encode(picture(number)).decode()


def test_an_answer_is_the_same_by_every_way(server: Server) -> None:
    (raw,) = server.ask("/predict", picture(7)).json["predictions"]
    (scored,) = server.ask("/invocations", split(text(7)), JSON).json["predictions"]
    assert raw == scored


BAD = {
    "no image": ("/predict", NO_IMAGE, JPEG, 400, "Image 0 cannot be read: not an image"),
    "nothing": ("/predict", b"", JPEG, 400, "Image 0 cannot be read: empty file."),
    "a bomb": ("/predict", huge(), "image/png", 413, "Image 0 cannot be read: more pixels than"),
    "text": ("/predict", b"red", "text/plain", 415, "Expected an image as the body"),
    "JSON": ("/predict", b"{}", JSON, 415, "Expected an image as the body"),
    "no type": ("/predict", b"red", None, 415, "Expected an image as the body"),
    "a second image": (
        "/predict",
        *form(("image", picture(1)), ("image", NO_IMAGE)),
        400,
        "Image 1 cannot be read: not an image of a known format",
    ),
    "an empty form": ("/predict", *form(), 400, "Expected at least one image, got none."),
    "half a form": (
        "/predict",
        form(("image", picture(1)))[0][:200],
        "multipart/form-data; boundary=edge",
        400,
        "Expected a whole form of multipart/form-data, but:",
    ),
    "a form without its boundary": (
        "/predict",
        form(("image", picture(1)))[0],
        "multipart/form-data",
        400,
        "Expected a whole form of multipart/form-data, but:",
    ),
    "many images": (
        "/predict",
        *form(*[("image", b"")] * 1001),
        413,
        "Expected at most 1,000 images",
    ),
    "MLflow's way": (
        "/invocations",
        b'{"dataframe_split": {"columns": ["image"], "data": [["AAAA"]]}}',
        JSON,
        400,
        "Image 0 cannot be read",
    ),
    "explaining no image": ("/explain", NO_IMAGE, JPEG, 400, "Image 0 cannot be read"),
    "explaining two": (
        "/explain",
        *form(("image", picture(1)), ("image", picture(1))),
        413,
        "Expected at most 1 images, got 2.",
    ),
    "explaining an unknown label": (
        "/explain?label=purple",
        picture(1),
        JPEG,
        400,
        "Expected a label of blue, green, red; got 'purple'.",
    ),
    "correcting to an unknown label": (
        "/feedback",
        *form(("image", picture(1)), ("label", "purple")),
        400,
        "Expected a label of blue, green, red; got 'purple'.",
    ),
    "correcting an answer that cannot be": (
        "/feedback",
        *form(("image", picture(1)), ("label", "red"), ("request_id", "x\x00")),
        400,
        "Expected the request_id of an answer",
    ),
    "correcting nothing": ("/feedback", *form(("label", "red")), 400, "Image 0 cannot be read"),
    "correcting without a form": ("/feedback", picture(1), JPEG, 415, "Expected a form"),
    "another path": ("/predictions", picture(1), JPEG, 404, "Not Found."),
    "another method": ("/ready", b"", JPEG, 405, "Method Not Allowed."),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_in_one_sentence(server: Server, name: str) -> None:
    path, body, kind, status, sentence = BAD[name]
    answer = server.ask(path, body, kind)
    assert answer.status == status, answer.body
    assert answer.json.keys() == {"error_code", "message"}
    assert answer.json["message"].startswith(sentence)
    assert answer.json["message"].endswith(".")
    assert server.ask("/predict", colour("red"), "image/png").status == 200


def test_a_saliency_map_lies_over_what_decided(server: Server) -> None:
    picture = Image.new("RGB", (80, 80), (60, 60, 60))
    picture.paste((255, 0, 0), (0, 0, 40, 80))
    file = io.BytesIO()
    picture.save(file, "PNG")
    answer = server.ask("/explain?label=red", file.getvalue(), "image/png")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
    alpha = Image.open(io.BytesIO(answer.body)).getchannel("A")
    left = alpha.crop((0, 0, alpha.width // 2, alpha.height)).resize((1, 1)).getpixel((0, 0))
    right = alpha.crop((alpha.width // 2, 0, *alpha.size)).resize((1, 1)).getpixel((0, 0))
    assert left > 100 > 2 * right


def test_a_correction_is_stored_with_its_image(server: Server) -> None:
    image = colour("red")
    told = server.ask("/predict", image, "image/png").json
    parts = (("image", image), ("label", "green"), ("request_id", told["request_id"]))
    answer = server.ask("/feedback", *form(*parts))
    assert (answer.status, answer.json) == (201, {"message": "Saved."})
    found = server.rows("SELECT * FROM feedback ORDER BY id")[-1]
    assert (found["label"], found["answered"], found["image"]) == ("green", "red", image)
    assert (found["model_name"], found["model_version"]) == ("colours", "1")
    assert found["request_id"] == told["request_id"]
    assert found["content"] in {row["content"] for row in server.rows()}


def test_metrics_tell_what_happened(server: Server) -> None:
    before = {
        name: server.metric(name) for name in ("lookout_images_total", "lookout_labels_total")
    }
    server.ask("/predict", *form(("image", colour("red")), ("image", colour("blue"))))
    server.ask("/invocations", split(text(1)), JSON)
    server.ask("/somewhere/else")
    deadline = time.monotonic() + 10
    while server.metric("lookout_log_written_total") < server.metric("lookout_images_total"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    told = server.ask("/metrics").body.decode()
    for name, value in before.items():
        assert server.metric(name) == value + 3
    assert re.search(r'lookout_model{name="colours",version="1"} [1-4]\.0', told)
    assert 'lookout_requests_total{path="/predict",status="200"}' in told
    assert 'path="other"' in told
    assert "/somewhere" not in told
    assert server.metric("lookout_requests_in_flight") == 0
    assert server.metric("lookout_log_dropped_total") == 0
    assert server.metric("lookout_log_written_total") == len(server.rows())
    assert server.metric("lookout_request_seconds_count") > 0


def test_the_page_needs_nothing_from_elsewhere(server: Server) -> None:
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "javascript")):
        answer = server.ask(path)
        assert answer.status == 200
        assert kind in answer.headers["Content-Type"]
        assert b"http://" not in answer.body.replace(b"http://www.w3.org/", b"")
        assert b"https://" not in answer.body
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]


def test_a_page_of_another_site_cannot_ask(server: Server) -> None:
    answer = server.ask("/predict", picture(1), Sec_Fetch_Site="cross-site")
    assert (answer.status, answer.json["error_code"]) == (403, "PERMISSION_DENIED")
    assert server.ask("/predict", picture(1), Origin="http://elsewhere").status == 403
    assert server.ask("/predict", picture(1), Origin=server.url).status == 200
    assert server.ask("/", Sec_Fetch_Site="cross-site").status == 200  # but may link here


@pytest.mark.parametrize(
    ("variables", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer s3cret"}, 200),
    ],
)
def test_where_a_token_is_set_requests_bear_it(
    guarded: Server, variables: dict[str, str], status: int
) -> None:
    for path, body in (("/predict", picture(1)), ("/model", None), ("/metrics", None)):
        answer = guarded.ask(path, body, **variables)
        assert answer.status == status, path
        if status == 401:
            assert answer.json["error_code"] == "UNAUTHENTICATED"
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/", "/live", "/ready", "/ping"):
        assert guarded.ask(path).status == 200
    assert "s3cret" not in guarded.said


@pytest.fixture(scope="module")
def guarded(servers: Servers, store: str) -> Server:
    """One request at a time, no log, a token."""
    return servers.app(store, CHAMPION, limit=1, workers=1, log="", LOOKOUT_TOKEN="s3cret")


def test_without_a_log_corrections_are_refused(guarded: Server) -> None:
    bearing = {"Authorization": "Bearer s3cret"}
    assert guarded.ask("/model", **bearing).json["feedback"] is False
    answer = guarded.ask("/feedback", *form(("image", picture(1)), ("label", "red")), **bearing)
    assert (answer.status, answer.json["error_code"]) == (404, "ENDPOINT_NOT_FOUND")


def test_more_requests_than_the_limit_are_told_to_come_again(guarded: Server) -> None:
    bearing = {"Authorization": "Bearer s3cret"}
    body = form(*[("image", picture(1))] * 500)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: guarded.ask("/predict", *body, **bearing), range(6)))
    assert {answer.status for answer in answers} == {200, 503}
    refused = next(answer for answer in answers if answer.status == 503)
    assert refused.json == {
        "error_code": "TEMPORARILY_UNAVAILABLE",
        "message": "The server is busy; try again.",
    }
    assert int(refused.headers["Retry-After"]) >= 1
    assert guarded.ask("/predict", picture(1), **bearing).status == 200


def test_without_a_champion_the_app_starts_says_so_and_takes_the_first(
    servers: Servers, alternating: str
) -> None:
    server = servers.app(alternating, "models:/turns@later", wait="/live", refresh=0.2, workers=1)
    try:
        for path, body in (("/ready", None), ("/predict", picture(1)), ("/ping", None)):
            answer = server.ask(path, body)
            assert answer.status == 503
            assert answer.json["error_code"] == "TEMPORARILY_UNAVAILABLE"
            assert "models:/turns@later" in answer.json["message"]
            assert int(answer.headers["Retry-After"]) >= 1
        assert server.ask("/live").status == 200
        MlflowClient(alternating).set_registered_model_alias("turns", "later", "2")
        server.wait("/ready", 20)
        assert server.ask("/predict", colour("red")).json["predictions"][0]["label"] == "red 2"
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("seconds", "every"), [(8, 1), pytest.param(60, 5, marks=pytest.mark.fuzz)]
)
def test_a_new_champion_answers_without_a_failed_or_a_mixed_answer(
    servers: Servers, alternating: str, seconds: int, every: int
) -> None:
    if seconds > 8 and not SCHEMATHESIS.exists():
        pytest.skip("the long form runs where Schemathesis does (requirements-dev.txt)")
    client = MlflowClient(alternating)
    client.set_registered_model_alias("turns", "champion", "1")
    server = servers.app(alternating, TURNS, refresh=0.2)
    stop = threading.Event()

    def move() -> None:
        version = 1
        while not stop.wait(every):
            version = 3 - version
            client.set_registered_model_alias("turns", "champion", str(version))

    mover = threading.Thread(target=move)
    mover.start()
    pair = form(("image", colour("red")), ("image", colour("blue")))
    try:
        result = load.run(
            f"{server.url}/predict", [pair[0]], 6, seconds, content_type=pair[1], keep=True
        )
    finally:
        stop.set()
        mover.join()
    assert result.statuses.keys() == {200}
    versions = set()
    for answer in result.answers:
        told = json.loads(answer.body)
        version = told["model"]["version"]
        versions.add(version)
        labels = [one["label"] for one in told["predictions"]]
        assert labels == [f"red {version}", f"blue {version}"]
    assert versions == {"1", "2"}
    assert server.metric("lookout_model_swaps_total") >= 4
    for row in server.rows():
        assert row["label"].endswith(row["model_version"])
    server.stop()


def test_a_champion_that_does_not_load_leaves_the_old_one(
    servers: Servers, alternating: str
) -> None:
    client = MlflowClient(alternating)
    client.set_registered_model_alias("turns", "champion", "1")
    server = servers.app(alternating, TURNS, refresh=0.2, workers=1)
    client.set_registered_model_alias("turns", "champion", "3")
    deadline = time.monotonic() + 20
    while not server.metric("lookout_model_failures_total") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert server.metric("lookout_model_failures_total") == 1
    assert server.ask("/predict", colour("red")).json["model"]["version"] == "1"
    ready = server.ask("/ready")
    assert ready.status == 200
    assert "version 3 does not load" in ready.json["waiting"]
    client.set_registered_model_alias("turns", "champion", "2")
    while server.ask("/ready").json["model"]["version"] != "2":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    server.stop()


def test_a_stopped_app_answers_what_it_has_begun(servers: Servers, store: str) -> None:
    server = servers.app(store, CHAMPION)
    body = form(*[("image", picture(n)) for n in range(10)] * 80)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.ask, "/predict", *body)
        while not (answer.done() or server.metric("lookout_requests_in_flight")):
            time.sleep(0.002)
        assert server.stop(signal.SIGTERM) in (0, -signal.SIGTERM)
        assert answer.result().status == 200
    assert len(server.rows()) == len(answer.result().json["predictions"]) == 800


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"model": "colours"},
            "Expected models:/NAME@ALIAS or models:/NAME/VERSION, got 'colours'",
        ),
        ({"port": 0}, "Expected a port of 1 to 65535, got 0."),
        ({"refresh": 0}, "Expected more than 0 seconds as refresh, got 0."),
        ({"limit": 0}, "Expected a limit of 1 or more requests, got 0."),
        ({"workers": -1}, "Expected 0 to 256 workers, got -1."),
        ({"log": "nonsense"}, "Expected the URL of a database"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(
    settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        AppSettings(**({"model": CHAMPION} | settings))


def test_a_log_that_cannot_be_meant_is_refused_without_its_password() -> None:
    with pytest.raises(UserError, match="Expected the URL of a database") as refused:
        AppSettings(CHAMPION, log="mysql://name:secret@host/base")
    assert "secret" not in str(refused.value)


def test_a_worker_that_dies_is_replaced(servers: Servers, store: str) -> None:
    server = servers.app(store, CHAMPION, workers=2)
    first = set(psutil.Process(server.process.pid).children())
    victim = first.pop()
    victim.kill()
    deadline = time.monotonic() + 20
    while len(now := set(psutil.Process(server.process.pid).children()) - {victim}) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert first < now
    server.wait()
    assert server.ask("/predict", picture(1)).status == 200
    assert 1 <= server.metric("lookout_model") <= 2


def test_workers_whose_parent_was_killed_end_too(servers: Servers, store: str) -> None:
    server = servers.app(store, CHAMPION, workers=2)
    workers = psutil.Process(server.process.pid).children()
    server.process.kill()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


def test_a_taken_port_is_one_sentence_and_status_2(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "serving.app", f"--model={CHAMPION}", f"--port={port}"],
            cwd=ROOT,
            env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"lookout: Expected to listen at 127.0.0.1:{port}, but: address already in use; "
        "choose another `port`."
    )
