import io
import re
import socket
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from monitoring import report
from monitoring.drift import check
from monitoring.features import probability_columns
from serving.features import FEATURES

NASTY = ("</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "plain & simple")


def rows(count: int, classes: tuple[str, ...], seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.ones(len(classes)), count)
    labels = np.array(classes, object)[shares.argmax(axis=1)]
    numbers = {name: generator.standard_normal(count) for name in FEATURES}
    numbers["width"] = np.full(count, 150.0)
    columns = {"label": labels, "truth": labels, "confidence": shares.max(axis=1), **numbers}
    shown = dict(zip(probability_columns(classes), shares.T, strict=True))
    return pd.DataFrame({**columns, **shown})


def made(count: int, classes: tuple[str, ...]) -> str:
    reference, current = rows(count, classes, 0), rows(count, classes, 1)
    current["brightness"] += 2
    verdict = check(reference, current, classes)
    picture = report.Picture("<b>.jpg", NASTY[0], 0.4, b"jpeg")
    about = {"model": "scenes <1>", "source": "/new & old", "unreadable": 7}
    return report.page(verdict, reference, current, **about, pictures=[picture])


@pytest.fixture(scope="module")
def page() -> str:
    def refuse(*_):
        raise AssertionError("the report tried to reach another host")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        return made(5_000, NASTY)


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_page_says_the_verdict_the_counts_and_the_accuracy_before_evidentlys_content(page):
    ours = page[page.index("<body>") : page.index('<div id="root_')]
    assert "<h1 class=drift>Drift: 1 of 14 detectors moved, most of all brightness" in ours
    for word in ("5,000", "Unreadable", "<dd>7</dd>", "100.0%", "Where the model is least sure"):
        assert word in ours


def test_page_draws_every_column_with_evidentlys_verdict_equal_to_ours(page):
    assert page.count("Data drift detected. Drift detection method: KS, corrected p") == 1
    assert "Drift in column 'brightness'. Data drift detected." in page
    assert page.count(". Data drift not detected. Drift detection method: ") == 13
    assert (
        "Drift in column 'label'. Data drift not detected. Drift detection method: chi-squ" in page
    )


def test_page_is_below_5_mb_and_its_size_does_not_grow_with_rows(page):
    assert len(page.encode()) < 5_000_000


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
    assert "default-src 'none'" in dict(tags[[tag for tag, _ in tags].index("meta")][1])["content"]


def test_class_names_and_paths_are_text_not_markup(page):
    tags = [tag for tag, _ in Tags(page).found]
    assert tags.count("script") == 4  # Evidently's own: data, a shim, the library, the drawing
    assert tags.count("img") == 1
    assert "<b>.jpg" not in page
    assert "scenes &lt;1&gt;" in page
    assert not any(name in page for name in NASTY[:2])
    assert r"\u003cimg src=x onerror=alert(1)>" in page


def test_a_hundred_classes_are_all_in_the_table_and_forty_in_the_pictures():
    page = made(200, tuple(f"class {number}" for number in range(100)))
    assert page.count("<td>p_class") == 100
    assert page.count("Drift detection method") == 40
    assert "40 columns, those that moved first" in page


def test_thumbnail_is_small_upright_and_without_the_metadata():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    file = io.BytesIO()
    Image.new("RGB", (3000, 1500), "red").save(file, "JPEG", exif=exif)
    content = report.thumbnail(file.getvalue())
    image = Image.open(io.BytesIO(content))
    assert image.size == (72, 144)
    assert not image.getexif()
    assert len(content) < 10_000
