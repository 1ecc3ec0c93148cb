import dataclasses
import itertools
import re
import socket
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitoring import report
from monitoring.accuracy import Accuracy
from monitoring.drift import Finding, Verdict, check
from monitoring.features import probability_columns
from monitoring.history import Past
from serving.features import FEATURES
from serving.settings import UserError

NASTY = ("</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "plain & simple")
PLAIN = ("forest", "sea")
FILE = "<b>\u202e\udcff.jpg"
WHEN = datetime(2026, 3, 5, 14, 3, tzinfo=UTC)
ESTIMATED = Accuracy(0.8, 0.75, 0.85, 5_000)
ABOUT = {"model": "scenes <1>", "source": "/new & old", "unreadable": 7, "estimated": ESTIMATED}
EMBEDDING = Finding("embedding", "embedding", 0.3, 0.001, 0.02, 0.4, 0.1, moved=True)
UNREADABLE = Finding("unreadable", "unreadable", 0.1, 1e-9, 1e-8, 0.1, 0.05, moved=True)


def rows(count: int, classes: tuple[str, ...], seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.ones(len(classes)), count)
    labels = np.array(classes, object)[shares.argmax(axis=1)]
    numbers = {name: generator.standard_normal(count) for name in FEATURES}
    numbers["width"] = np.full(count, 150.0)
    columns = {"label": labels, "truth": labels, "confidence": shares.max(axis=1), **numbers}
    shown = dict(zip(probability_columns(classes), shares.T, strict=True))
    return pd.DataFrame({**columns, **shown})


def moved(count: int, classes: tuple[str, ...]) -> tuple[Verdict, pd.DataFrame, pd.DataFrame]:
    """A check of rows whose brightness alone rose."""
    reference, current = rows(count, classes, 0), rows(count, classes, 1)
    current["brightness"] += 2
    return check(reference, current, classes), reference, current


def checks(count: int) -> list[Past]:
    return [
        Past(
            run_id=f"{number:032x}",
            time=WHEN - timedelta(days=count - number),
            drift=number == 2,
            images=90,
            estimated_accuracy=0.9,
            accuracy=0.85 if number % 2 else None,
            largest_effect=0.3,
            version="<i>1",
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module", autouse=True)
def _offline():
    def refuse(*_):
        raise AssertionError("the report tried to reach another host")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="module")
def page() -> str:
    picture = report.Picture(FILE, NASTY[0], 0.4, b"jpeg")
    return report.page(
        *moved(5_000, NASTY),
        **ABOUT,
        real=Accuracy(0.7, 0.65, 0.75, 300),
        by_class={NASTY[1]: Accuracy(0.5, 0.4, 0.6, 30)},
        left_out=["Nobody <counted>."],
        pairs=[report.Pair(picture, None, 0.998), report.Pair(picture, picture, 1.0)],
        history=checks(4),
        when=WHEN,
    )


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def ours(page: str) -> str:
    return page[page.index("<body>") : page.index('<div id="root_')]


def test_page_says_what_a_reader_looks_for_in_order(page):
    words = [
        "<h1 class=drift>Drift: 1 of 14 detectors moved, most of all brightness",
        "Checked on 5 March 2026, 14:03 UTC.",
        "<dd>5,000</dd>",
        "<dd>7</dd><dd class=detail>0.1% of the files</dd>",
        "<dd>100.0%</dd>",
        "<dd>80.0%</dd><dd class=detail>\N{MINUS SIGN}20.0 points against the reference<br>",
        "95%: 75.0% to 85.0%<br>from what the model saw",
        "<dd>70.0%</dd>",
        "on 300 labelled images",
        "Nobody &lt;counted&gt;.",
        "<h2>What moved most</h2>",
        "Mean brightness rose from",
        "<h2>Least like the reference</h2>",
        "more novel than 99.8% of the reference",
        "more novel than all of the reference",
        "<h2>Predicted classes</h2>",
        "<h2>Accuracy by class</h2>",
        "<h2>Over time</h2>",
        "5 checks, 2 with drift",
        "<h2>Detectors</h2>",
        "<h2>Distributions</h2>",
    ]
    found = re.findall("|".join(map(re.escape, words)), ours(page))
    assert list(dict.fromkeys(found)) == words


def test_page_draws_every_column_with_evidentlys_verdict_equal_to_ours(page):
    assert page.count("Data drift detected. Drift detection method: KS, corrected p") == 1
    assert "Drift in column 'brightness'. Data drift detected." in page
    assert page.count(". Data drift not detected. Drift detection method: ") == 13
    assert (
        "Drift in column 'label'. Data drift not detected. Drift detection method: chi-squ" in page
    )


def test_page_fetches_nothing(page):
    tags = Tags(page).found
    links = [
        attributes[key] or ""
        for _, attributes in tags
        for key in ("src", "href", "srcset", "poster", "data", "action")
        if key in attributes
    ]
    assert links
    assert all(link.startswith("data:") for link in links)
    assert not re.search(r"url\(\s*[\"']?https?:|@import\s*(?:url|[\"']http)", page)
    metas = [attributes for tag, attributes in tags if tag == "meta"]
    assert metas[0] == {"charset": "utf-8"}
    assert "default-src 'none'" in metas[1]["content"]


def test_names_and_paths_of_any_kind_are_text_not_markup(page):
    page.encode()
    tags = [tag for tag, _ in Tags(page).found]
    assert tags.count("script") == 4  # Evidently's own: data, a shim, the library, the drawing
    assert tags.count("img") == 3
    assert "<b>" not in ours(page).replace("<b>&lt;/script&gt;", "")
    assert r"&lt;b&gt;\u202e\udcff.jpg" in page
    assert "scenes &lt;1&gt;" in page
    assert "&lt;i&gt;1" in page
    assert not any(name in page for name in NASTY[:2])
    assert r"\u003cimg src=x onerror=alert(1)>" in page


def test_every_picture_says_what_it_shows(page):
    tags = Tags(ours(page)).found
    pictures = [a for tag, a in tags if tag == "img"] + [a for tag, a in tags if tag == "svg"]
    assert len(pictures) == 3 + 1 + 2  # thumbnails, what moved, the trend
    assert all(a.get("alt") or a.get("aria-label") for a in pictures)
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_columns_that_no_frame_has_are_said_without_a_histogram():
    verdict, reference, current = moved(60, PLAIN)
    verdict = dataclasses.replace(verdict, findings=(*verdict.findings, EMBEDDING, UNREADABLE))
    for frame in (reference, current):
        frame[["e_0", "e_1"]] = np.random.default_rng(0).standard_normal((60, 2))
    bare = report.page(verdict, reference[["label"]], current[["label", "truth"]], **ABOUT)
    assert "10% of the files cannot be read." in bare
    assert "To the network, the images lie elsewhere than those of the reference." in bare
    assert "<svg" not in ours(bare)
    assert bare.count("Drift detection method") == 1
    drawn = report.page(verdict, reference, current, **ABOUT | {"unreadable": None})
    assert 'class="dots before"' in drawn
    assert "<dt>Unreadable" not in drawn
    assert "Over time" not in ours(drawn)
    assert "Least like the reference" not in ours(drawn)


def test_a_page_without_anything_to_draw_is_a_page():
    frame = pd.DataFrame({"confidence": [np.nan, np.inf]})
    verdict = dataclasses.replace(moved(30, PLAIN)[0], findings=(EMBEDDING,))
    assert "most of all embedding" in report.page(verdict, frame, frame, **ABOUT)


def test_a_thousand_classes_with_hostile_names_fit_into_5_mb():
    classes = tuple(f"{number}" + "<'\"&" * 60 for number in range(1_000))
    verdict, reference, current = moved(100, PLAIN)
    findings = [Finding("probabilities", f"p_{c}", 1, 0, 0, 0.5, 0.1, moved=True) for c in classes]
    verdict = dataclasses.replace(verdict, findings=(*verdict.findings, *findings))
    values = np.random.default_rng(0).random((100, 1_000), np.float32)
    shares = pd.DataFrame(values, columns=[f"p_{name}" for name in classes])
    labels = pd.Series(np.resize(np.array(classes, object), 100))
    reference, current = (
        pd.concat([frame.assign(label=labels), shares], axis=1) for frame in (reference, current)
    )
    picture = report.Picture("x" * 4_000, classes[0], 0.5, bytes(16_000))
    page = report.page(
        verdict,
        reference,
        current,
        **ABOUT,
        by_class=dict.fromkeys(classes, ESTIMATED),
        pairs=[report.Pair(picture, picture, 0.9)] * 100,
        history=checks(500),
    )
    assert len(page.encode()) < 5_000_000
    assert page.count("Drift detection method") == 24
    assert "24 columns, those that moved first" in page


def workspace_of(folder: Path):
    evidently = report._evidently()
    return evidently.ui.workspace.Workspace(str(folder))


def test_fed_checks_are_runs_of_one_project_with_our_p_values(tmp_path):
    folder = tmp_path / "new" / "workspace"
    check = moved(100, NASTY)
    report.feed(folder, "scenes", *check, WHEN)
    report.feed(folder, "scenes", *check, WHEN + timedelta(days=1))
    report.feed(folder, "another", *check, WHEN)
    workspace = workspace_of(folder)
    (project,) = workspace.search_project("scenes")
    runs = [workspace.get_run(project.id, run) for run in workspace.list_runs(project.id)]
    assert len(runs) == 2
    times = sorted(run.timestamp.astimezone(UTC) for run in runs)
    assert times == [WHEN, WHEN + timedelta(days=1)]
    expected = {finding.column: finding.corrected_p_value for finding in check[0].findings}
    for run in runs:
        values = {
            result.metric_value_location.metric.params["column"]: result.value
            for result in run.metric_results.values()
        }
        assert values["brightness"] == expected["brightness"]
        assert len(values) == len(expected)
        assert run.tags == ["drift"]
        assert run.metadata["verdict"] == check[0].sentence
    assert not any("<img" in path.read_text() for path in folder.rglob("*.json"))
    assert len(workspace.get_dashboard(project.id).panels) == 1


def test_feed_goes_on_with_a_project_that_evidently_made_and_keeps_its_dashboard(tmp_path):
    workspace = workspace_of(tmp_path)
    project = workspace.create_project("mine")
    report.feed(tmp_path, "mine", *moved(30, PLAIN), WHEN)
    assert [found.id for found in workspace.list_projects()] == [project.id]
    assert len(workspace.list_runs(project.id)) == 1


def test_feed_refuses_what_is_no_workspace_and_leaves_it_alone(tmp_path):
    check = moved(30, PLAIN)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="holds other files; give another folder"):
        report.feed(tmp_path, "scenes", *check, WHEN)
    with pytest.raises(UserError, match="file is a file"):
        report.feed(tmp_path / "file", "scenes", *check, WHEN)
    with pytest.raises(UserError, match="failed: Not a directory"):
        report.feed(tmp_path / "file" / "below", "scenes", *check, WHEN)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
