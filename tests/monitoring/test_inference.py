"""The inference log as a source, in real databases, as the server's own log writes them."""

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import create_engine, text

from monitoring import inference
from monitoring.accuracy import by_class, measured
from monitoring.features import frame, of_photo
from monitoring.inference import of_log, public
from monitoring.window import Window
from serving import folder
from serving.features import FEATURES
from serving.log import Log
from serving.predictor import ImageError, Predictor
from serving.registered import RegisteredModel
from serving.settings import UserError
from tests.conftest import CLASSES

NOW = datetime(2026, 3, 29, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = Window.parse("24h", NOW)
SECRET = "geheim"


def answer(number: int, ago: timedelta = HOUR, **more: Any) -> dict[str, Any]:
    shares = np.random.default_rng(number).dirichlet([1, 1, 1]).astype(np.float32)
    embedding = np.array([number, 0.5, 0.25], "<f2")
    return {
        "time": NOW - ago,
        "request_id": f"request-{number}",
        "position": 0,
        "model_name": "tints",
        "model_version": "1",
        "label": CLASSES[int(shares.argmax())],
        "confidence": float(shares.max()),
        "probabilities": dict(zip(CLASSES, map(float, shares), strict=True)),
        "embedding": embedding.tobytes(),
        **dict.fromkeys(FEATURES, 0.1 + number),
        **more,
    }


def write(url: str, rows: Sequence[dict[str, Any]], images: str = "") -> str:
    log = Log(url, images)
    log.put(rows)
    log.close()
    assert log.written == len(rows)
    log._engine.dispose()
    return url


def said(url: str, rows: Sequence[tuple[bytes, str, str, timedelta]], **more: str) -> None:
    """What people said: image, right label, what the model had answered, how long ago."""
    log = Log(url)
    row = {"request_id": "a", "model_name": "tints", "model_version": "1", **more}
    for image, label, answered, _ in rows:
        log.correct(image, {**row, "label": label, "answered": answered})
    log._engine.dispose()
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        count = connection.execute(text("SELECT max(id) FROM feedback")).scalar_one()
        for number, (*_, ago) in enumerate(rows, count - len(rows) + 1):
            when = (NOW - ago).isoformat(" ") if "postgres" in url else f"{NOW - ago:%F %T}.000000"
            query = text("UPDATE feedback SET time = :time WHERE id = :id")
            connection.execute(query, {"time": when, "id": number})
    engine.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty log of either kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/log.db"
    else:
        yield request.getfixturevalue("database")


@pytest.fixture
def lite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.db"


def numbers(current: inference.Current) -> list[int]:
    """Which answers a frame holds, the newest first."""
    return [round(value - 0.1) for value in current.rows["brightness"]]


def test_answers_become_the_frame_that_monitoring_compares(tints, url):
    write(url, [answer(1), answer(2)])
    current = of_log(tints, url, DAY)
    assert numbers(current) == [2, 1]
    assert current.unreadable is None
    assert current.labels is None
    assert current.left_out == []
    assert current.rows["p_red"].tolist() == pytest.approx(
        [answer(n)["probabilities"]["red"] for n in (2, 1)]
    )
    assert current.rows["label"].tolist() == [answer(n)["label"] for n in (2, 1)]
    assert current.rows[["e_0", "e_1", "novelty"]].to_numpy().tolist() == [
        [2, 0.5, 0.25],
        [1, 0.5, 0.25],
    ]


def test_a_window_of_time_ends_and_begins_to_the_second_in_utc(tints, url):
    second = timedelta(seconds=1)
    moments = [24 * HOUR + second, 24 * HOUR, 24 * HOUR - second, 0 * HOUR, -second]
    write(url, [answer(number, ago) for number, ago in enumerate(moments)])
    assert numbers(of_log(tints, url, DAY)) == [3, 2]
    following = Window(NOW + HOUR, after=NOW)
    assert numbers(of_log(tints, url, following)) == [4]


def test_a_window_of_a_number_holds_the_newest_answers_and_what_was_said_since(tints, url):
    write(url, [answer(number, (9 - number) * HOUR) for number in (3, 1, 2, 0)])
    said(url, [(b"old", "red", "red", 8.5 * HOUR), (b"new", "red", "blue", 6.5 * HOUR)])
    current = of_log(tints, url, Window.parse("2", NOW))
    assert numbers(current) == [3, 2]
    assert current.labels
    assert current.labels.label == ["blue"]


def test_answers_of_other_models_and_versions_are_left_out_and_counted(tints, url):
    rows = [answer(1), answer(2, model_version="2"), answer(3, model_name="colours")]
    write(url, [*rows, answer(4, 48 * HOUR, model_version="2")])
    current = of_log(tints, url, DAY)
    assert numbers(current) == [1]
    assert current.left_out == ["2 answers of other models or versions are not looked at."]


def test_the_features_and_embeddings_of_a_log_equal_those_of_the_same_images(
    tints, painted, lite, monkeypatch
):
    monkeypatch.setenv("LOOKOUT_LOG", lite)
    model = Predictor()
    model.load_context(SimpleNamespace(artifacts={"model": str(tints.folder)}))
    model.name, model.version = "tints", "1"
    paths = folder.files(painted("same", 9, seed=3))
    model.predict(None, pd.DataFrame({"image": [path.read_bytes() for path in paths]}))
    model.log.close()
    now = datetime.now(UTC) + HOUR
    logged = of_log(tints, lite, Window(now)).rows.iloc[::-1].reset_index(drop=True)
    looked = frame(folder.answer(tints.classifier, paths, of_photo), CLASSES)
    for name in logged:
        if name == "label":
            assert logged[name].tolist() == looked[name].tolist()
        else:
            assert np.array_equal(
                logged[name].to_numpy(np.float32), looked[name].to_numpy(np.float32)
            ), name


@pytest.mark.parametrize("lacking", ["embedding", "noise"])
def test_a_few_answers_without_embedding_or_features_are_left_out_and_told(tints, url, lacking):
    write(url, [answer(number, **({lacking: None} if number == 2 else {})) for number in range(5)])
    current = of_log(tints, url, DAY)
    assert numbers(current) == [4, 3, 1, 0]
    assert current.left_out == ["1 answers lack features or embedding, and are left out."]


def test_a_log_without_most_embeddings_or_features_is_checked_without_them(tints, url):
    none = dict.fromkeys(["embedding", *FEATURES])
    write(url, [answer(number, **(none if number else {})) for number in range(5)])
    current = of_log(tints, url, DAY)
    assert len(current.rows) == 5
    assert {"novelty", "e_0", *FEATURES}.isdisjoint(current.rows)
    assert current.left_out == [
        "The log holds no image features of most answers: not compared.",
        "The log holds no embeddings of most answers: not compared.",
    ]


@pytest.mark.parametrize("broken", [b"", b"123", b"1234567", bytes(8), b"\xff\xff" * 3])
def test_a_broken_embedding_is_left_out(tints, lite, broken):
    write(lite, [answer(0), answer(1, embedding=broken), answer(2)])
    current = of_log(tints, lite, DAY)
    assert numbers(current) == [2, 0]
    assert np.isfinite(current.rows["novelty"]).all()


def test_embeddings_that_are_all_broken_are_none(tints, lite):
    write(lite, [answer(n, embedding=b"123" if n % 2 else b"12345") for n in range(4)])
    current = of_log(tints, lite, DAY)
    assert len(current.rows) == 4
    assert "novelty" not in current.rows


def test_rows_come_in_parts_as_they_would_at_once(tints, lite, monkeypatch):
    write(lite, [answer(number, number * timedelta(minutes=1)) for number in range(25)])
    whole = of_log(tints, lite, DAY)
    monkeypatch.setattr(inference, "at_once", lambda classes: 7)
    parts = of_log(tints, lite, DAY)
    assert parts.rows.equals(whole.rows)
    assert numbers(parts) == list(range(25))


def test_a_window_without_an_answer_is_an_empty_frame(tints, url):
    write(url, [answer(1, 48 * HOUR)])
    current = of_log(tints, url, DAY)
    assert len(current.rows) == 0
    assert "p_red" in current.rows
    assert len(of_log(tints, url, Window.parse("5", NOW - 72 * HOUR)).rows) == 0


def test_what_people_said_is_the_real_accuracy_with_the_last_word_of_each_image(tints, url):
    write(url, [answer(1)])
    minute = timedelta(minutes=1)
    said(
        url,
        [
            (b"one", "red", "blue", 9 * minute),
            (b"one", "blue", "blue", 1 * minute),  # the last word
            (b"two", "green", "blue", 5 * minute),
            (b"three", "green", "green", 5 * minute),
            (b"old", "red", "red", 25 * HOUR),
            (b"later", "red", "red", -minute),
        ],
    )
    said(url, [(b"four", "red", "red", minute)], model_version="2")
    labels = of_log(tints, url, DAY).labels
    assert labels
    assert sorted(zip(labels.truth, labels.label, strict=True)) == [
        ("blue", "blue"),
        ("green", "blue"),
        ("green", "green"),
    ]
    assert measured(labels.truth, labels.label).value == pytest.approx(2 / 3)
    assert by_class(labels.truth, labels.label)["green"].value == 0.5


def test_a_log_from_before_there_were_embeddings_or_feedback_is_checked(tints, lite, tmp_path):
    write(lite, [answer(number) for number in range(3)])
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        for column in ("embedding", "aspect"):
            connection.execute(f"ALTER TABLE answers DROP COLUMN {column}")
        connection.execute("DROP TABLE feedback")
        connection.commit()
    current = of_log(tints, lite, DAY)
    assert len(current.rows) == 3
    assert len(current.left_out) == 2
    assert current.labels is None
    write(lite, [answer(9)])  # whoever writes adds what is missing
    assert len(of_log(tints, lite, DAY).rows) == 4


def test_answers_with_other_classes_are_refused(tints, url):
    write(url, [answer(1, probabilities={"blue": 0.5, "green": 0.25, "fox": 0.25})])
    with pytest.raises(UserError, match=r"\(blue, green, red\) in .*, but it has fox; check with"):
        of_log(tints, url, DAY)
    write(url, [answer(1, 2 * HOUR, probabilities={"blue": 0.5, "red": 0.5})])
    with pytest.raises(UserError, match=r"all classes of the model in .*|but it has fox"):
        of_log(tints, url, DAY)


def test_answers_that_lack_a_class_are_refused(tints, lite):
    write(lite, [answer(1, probabilities={"blue": 0.5, "red": 0.5})])
    with pytest.raises(UserError, match="but some answers have none of green; is it the log of"):
        of_log(tints, lite, DAY)


def no_table(tmp_path: Path) -> str:
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE trials (id INTEGER)")
    return f"sqlite:///{tmp_path}/other.db"


def no_database(tmp_path: Path) -> str:
    (tmp_path / "file").write_text("no database" * 1000)
    return f"sqlite:///{tmp_path}/file"


MUTE = {
    "no table": (no_table, "but the database has no table answers"),
    "no database": (no_database, "but: file is not a database"),
    "no file": (lambda path: f"sqlite:///{path}/gone.db", "gone.db is no file"),
    "no folder": (lambda path: f"sqlite:///{path}/gone/log.db", "log.db is no file"),
    "nobody listens": (
        lambda _: f"postgresql://me:{SECRET}@127.0.0.1:1/log?sslpassword={SECRET}2",
        "me@127.0.0.1:1/log, but: connection",
    ),
    "an @ in a password": (
        lambda _: f"postgresql://me:pass@{SECRET}@127.0.0.1/log",
        "with one @; write one in a password as %40",
    ),
    "another kind": (lambda _: f"mysql://me:{SECRET}@host/log", "Expected the URL of an inference"),
    "no URL": (lambda _: SECRET, "Expected the URL of an inference log, as sqlite:///"),
    "memory": (lambda _: "sqlite://", "is no file"),
    "env, which is not set": (lambda _: "env", "in LOOKOUT_LOG, which is not set"),
}


@pytest.mark.parametrize(("make", "words"), MUTE.values(), ids=MUTE)
def test_a_log_that_does_not_answer_is_refused_in_one_sentence_without_its_password(
    tints, tmp_path, monkeypatch, make, words
):
    monkeypatch.delenv("LOOKOUT_LOG", raising=False)
    with pytest.raises(UserError) as refusal:
        of_log(tints, make(tmp_path), DAY)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert SECRET not in str(refusal.value)
    assert not list(tmp_path.glob("**/gone*"))


def test_env_is_the_log_in_the_environment(tints, lite, monkeypatch):
    write(lite, [answer(1)])
    monkeypatch.setenv("LOOKOUT_LOG", lite)
    assert len(of_log(tints, "env", DAY).rows) == 1
    assert public("env") == lite
    monkeypatch.setenv("LOOKOUT_LOG", f"postgresql://me:{SECRET}@host/log")
    assert public("env") == "postgresql://me@host/log"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (f"postgresql://me:{SECRET}@host:5432/log", "postgresql://me@host:5432/log"),
        (
            f"postgresql://host/log?user=me&password={SECRET}&sslpassword={SECRET}&sslmode=require",
            "postgresql://host/log?sslmode=require&user=me",
        ),
        (f"postgresql://me:{SECRET}%40%2F@host/log", "postgresql://me@host/log"),
        ("sqlite:////data/log.db", "sqlite:////data/log.db"),
    ],
)
def test_a_logs_url_is_shown_without_any_password(given, shown):
    assert public(given) == shown


def test_a_password_that_mlflow_run_has_logged_is_refused(tints, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    for log in (f"postgresql://me:{SECRET}@host/log", f"postgresql://host/log?password={SECRET}"):
        with pytest.raises(UserError, match="has logged this one: change it, and give 'env'"):
            of_log(tints, log, DAY)


@pytest.mark.postgres
def test_a_log_in_postgresql_is_read_with_a_password_in_its_url(tints, database, monkeypatch):
    url = write(database.replace("lookout@", f"lookout:{SECRET}@"), [answer(1)])
    assert len(of_log(tints, url, DAY).rows) == 1


def kept(tints: RegisteredModel, lite: str, images: Path) -> tuple[inference.Current, bytes]:
    """A log of one answer whose image is kept in a folder."""
    content = b"\x89PNG the image"
    digest = hashlib.sha256(content).hexdigest()
    write(lite, [answer(1, image=content, content=digest, format="PNG")], str(images))
    return of_log(tints, lite, DAY), content


def test_a_kept_image_is_read_where_the_reader_too_says_that_images_are_kept(
    tints, lite, tmp_path, monkeypatch
):
    current, content = kept(tints, lite, tmp_path / "images")
    monkeypatch.delenv("LOOKOUT_LOG_IMAGES", raising=False)
    with pytest.raises(ImageError, match="not kept"):
        current.picture(0)
    monkeypatch.setenv("LOOKOUT_LOG_IMAGES", str(tmp_path / "images"))
    assert current.picture(0) == content
    monkeypatch.setenv("LOOKOUT_LOG_IMAGES", str(tmp_path / "others"))
    with pytest.raises(ImageError, match="kept elsewhere"):
        current.picture(0)


HOSTILE = ["{root}/secret", "{root}/images/../secret", "{root}/images/link", "secret", "/dev/zero"]
HOSTILE += ["{root}/images\0", "{root}/images/" + "x" * 5000, "{root}/images/loop", "{root}/images"]
HOSTILE += ["{root}/images/gone.png", "file://{root}/secret", "s3://images/secret", ""]


@pytest.mark.parametrize("where", HOSTILE)
def test_a_path_in_the_log_is_not_followed_out_of_the_folder(
    tints, lite, tmp_path, monkeypatch, where
):
    current, _ = kept(tints, lite, tmp_path / "images")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "images" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "images" / "loop").symlink_to(tmp_path / "images" / "loop")
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        connection.execute("UPDATE answers SET image = ?", [where.format(root=tmp_path)])
        connection.commit()
    monkeypatch.setenv("LOOKOUT_LOG_IMAGES", str(tmp_path / "images"))
    with pytest.raises(ImageError):
        current.picture(0)


@pytest.mark.parametrize(
    "where", ["s3://others/a.png", "s3://kept/../a.png", "/etc/hostname", "s3://kept"]
)
def test_an_address_in_the_log_is_not_followed_out_of_the_store(
    tints, lite, tmp_path, monkeypatch, where
):
    current, _ = kept(tints, lite, tmp_path / "images")
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        connection.execute("UPDATE answers SET image = ?", [where])
        connection.commit()
    monkeypatch.setenv("LOOKOUT_LOG_IMAGES", "s3://kept")
    with pytest.raises(ImageError, match="kept elsewhere"):
        current.picture(0)


def test_a_log_that_is_gone_meanwhile_has_no_pictures(tints, lite, tmp_path, monkeypatch):
    current, _ = kept(tints, lite, tmp_path / "images")
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        connection.execute("DROP TABLE answers")
        connection.commit()
    monkeypatch.setenv("LOOKOUT_LOG_IMAGES", str(tmp_path / "images"))
    with pytest.raises(ImageError, match="does not answer any more"):
        current.picture(0)


@pytest.mark.parametrize(
    "broken", ["5", "null", "no JSON", '{"red": NaN, ', '{"red": "x", ', '{"red": [1], ', "{}, {}"]
)
def test_an_answer_that_holds_no_probabilities_is_left_out_and_told(tints, lite, broken):
    write(lite, [answer(number) for number in range(40)])
    others = ", ".join(f'"{name}": 0' for name in CLASSES if name != "red")
    stored = f"{broken}{others}}}" if broken.endswith(", ") else broken
    with closing(sqlite3.connect(lite.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("UPDATE answers SET probabilities = ? WHERE id = 7", (stored,))
    current = of_log(tints, lite, DAY)
    assert len(current.rows) == 39
    assert "1 answers hold no probabilities, and are left out." in current.left_out
