"""The page that a person opens: our verdict first, then Evidently's picture of every column.

The only file that imports Evidently. Its tests are named column by column and answer with our
corrected p-values and flags, so the page cannot say other than the verdict does. The page is one
file that fetches nothing: its content security policy forbids it.
"""

import base64
import io
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from types import ModuleType
from typing import Any

import pandas as pd
from PIL import Image

from monitoring.drift import DETECTORS, Finding, Verdict
from serving.predictor import open_image, to_rgb

SAMPLE = 2_000  # rows in the pictures; the statistics are made from all
PICTURED = 40  # columns with a picture, those that moved first: a thousand classes fit in a page
OPEN_ROWS = 20  # of the table; the others unfold
THUMBNAIL = 144  # pixels
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)
STYLE = """
body{margin:0}
.lookout{font:15px/1.45 system-ui,sans-serif;color:#1d2125;background:#fff;
padding:28px max(24px,calc(50% - 560px)) 8px}
.lookout h1{font-size:25px;line-height:1.25;margin:0;padding:16px 20px;border-radius:6px;
border-left:7px solid #2e7d4f;background:#e9f4ed}
.lookout h1.drift{border-color:#c0392b;background:#fbebe9}
.lookout h2{font-size:18px;margin:32px 0 10px}
.lookout p{margin:8px 0;color:#4d555d;max-width:78ch}
.lookout dl{display:flex;flex-wrap:wrap;gap:10px 40px;margin:18px 0 0}
.lookout dt{font-size:13px;color:#5c656e}
.lookout dd{margin:0;font-size:21px;font-variant-numeric:tabular-nums}
.lookout table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;
table-layout:fixed}
.lookout th,.lookout td{padding:5px 10px;border-bottom:1px solid #e3e6e8;text-align:left;
overflow-wrap:anywhere}
.lookout th{font-size:13px;font-weight:600;color:#5c656e;vertical-align:bottom}
.lookout .number{text-align:right}
.lookout tr.moved td{background:#fdf3f2}
.lookout tr.moved td:last-child{color:#a93226;font-weight:600}
.lookout .bar{position:relative;height:9px;margin-top:3px;background:#e9ecee;border-radius:2px}
.lookout .bar i{position:absolute;inset:0 auto 0 0;background:#8a949d;border-radius:2px}
.lookout .moved .bar i{background:#c0392b}
.lookout .bar b{position:absolute;top:-2px;bottom:-2px;width:2px;background:#1d2125}
.lookout summary{cursor:pointer;padding:10px;color:#4d555d}
.lookout ul{display:grid;grid-template-columns:repeat(auto-fill,minmax(160px,1fr));gap:16px;
margin:12px 0;padding:0;list-style:none}
.lookout img{display:block;width:100%;height:144px;object-fit:contain;background:#eceff1}
.lookout li{font-size:13px;overflow-wrap:anywhere}
.lookout li span{color:#5c656e}
"""
WIDTHS = (19, 10, 24, 9, 9, 10, 12, 7)  # percent, of the table's columns


@dataclass(frozen=True)
class Picture:
    """One image to show: what the model said, and a JPEG of it."""

    path: str
    label: str
    confidence: float
    jpeg: bytes


def thumbnail(content: bytes) -> bytes:
    """A JPEG of at most `THUMBNAIL` pixels a side, upright. Raises ImageError."""
    image = open_image(content)
    image.draft("RGB", (THUMBNAIL, THUMBNAIL))
    small = to_rgb(image)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    plain = Image.new("RGB", small.size)
    plain.paste(small)  # without the EXIF block, which would travel along: position, serial number
    file = io.BytesIO()
    plain.save(file, "JPEG", quality=80)
    return file.getvalue()


def page(
    verdict: Verdict,
    reference: pd.DataFrame,
    current: pd.DataFrame,
    *,
    model: str,
    source: str,
    unreadable: int,
    pictures: Sequence[Picture] = (),
) -> str:
    """The report as one HTML page, below 5 MB for any number of rows.

    reference, current: the frames that `verdict` was made from.
    model, source: what was checked, in words. unreadable: files without an answer.
    pictures: the current images with the lowest confidence.
    """
    header = "".join(
        [
            f"<h1{' class=drift' if verdict.drift else ''}>{escape(verdict.sentence)}</h1>",
            f"<p>{escape(source)} against the test images of {escape(model)}.</p>",
            _numbers(verdict, unreadable),
            _table(verdict, reference, current),
            _strip(pictures),
            "<h2>Distributions</h2>",
            f"<p>{escape(_caption(verdict))}</p>",
        ]
    )
    token = f"less{uuid.uuid4().hex}"
    html = _evidently_page(verdict, reference, current, less_than=token)
    html = html.replace(
        "<head>",
        f'<head><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(verdict.sentence)}</title><style>{STYLE}</style>",
        1,
    )
    html = html.replace("<body>", f'<body><main class="lookout">{header}</main>', 1)
    return html.replace(token, "\\u003c")


def _numbers(verdict: Verdict, unreadable: int) -> str:
    change = verdict.estimated_accuracy - verdict.reference_accuracy
    numbers = {
        "Images answered": f"{verdict.images:,}",
        "Unreadable": f"{unreadable:,}",
        "Reference images": f"{verdict.reference_images:,}",
        "Reference accuracy": f"{verdict.reference_accuracy:.1%}",
        "Estimated accuracy now": f"{verdict.estimated_accuracy:.1%} ({100 * change:+.1f} points)",
    }
    items = (f"<div><dt>{key}</dt><dd>{value}</dd></div>" for key, value in numbers.items())
    return f"<dl>{''.join(items)}</dl>"


def _table(verdict: Verdict, reference: pd.DataFrame, current: pd.DataFrame) -> str:
    titles = "Column", "Test", "Reference → now", "Statistic", "p", "Corrected p"
    head = "".join(f"<th{' class=number' if i > 2 else ''}>{t}</th>" for i, t in enumerate(titles))
    widths = "".join(f'<col style="width:{width}%">' for width in WIDTHS)
    head = f"<colgroup>{widths}</colgroup><thead><tr>{head}<th>Effect size<th>Verdict</thead>"
    rows = [_row(finding, reference, current) for finding in _ordered(verdict)]
    shown, folded = rows[:OPEN_ROWS], rows[OPEN_ROWS:]
    more = (
        f"<details><summary>{len(folded)} more</summary>"
        f"<table>{head}{''.join(folded)}</table></details>"
        if folded
        else ""
    )
    return (
        f"<h2>Detectors</h2><table>{head}{''.join(shown)}</table>{more}"
        f"<p>Moved: corrected p (Holm, over all {len(rows)}) of {verdict.alpha:g} or less, and an "
        "effect size at or above the mark in its bar. The effect size, 0 to 1, is the least share "
        "of images that must have changed.</p>"
    )


def _row(finding: Finding, reference: pd.DataFrame, current: pd.DataFrame) -> str:
    bar = (
        f'<div class=bar><i style="width:{100 * min(1, finding.effect_size):.1f}%"></i>'
        f'<b style="left:{100 * finding.floor:.1f}%"></b></div>'
    )
    change = _change(reference[finding.column], current[finding.column])
    return (
        f"<tr{' class=moved' if finding.moved else ''}><td>{escape(finding.column)}"
        f"<td>{escape(DETECTORS[finding.detector].name)}<td>{escape(change)}"
        f"<td class=number>{finding.statistic:.3g}<td class=number>{p_text(finding.p_value)}"
        f"<td class=number>{p_text(finding.corrected_p_value)}<td>{finding.effect_size:.2f}{bar}"
        f"<td>{'moved' if finding.moved else 'steady'}"
    )


def _change(reference: pd.Series, current: pd.Series) -> str:
    """The means of numbers; of labels, the one whose share changed most."""
    if pd.api.types.is_numeric_dtype(reference):
        return f"mean {reference.mean():.4g} → {current.mean():.4g}"
    before, now = reference.value_counts(normalize=True), current.value_counts(normalize=True)
    label = now.sub(before, fill_value=0).abs().idxmax()
    return f"{label} {before.get(label, 0):.1%} → {now.get(label, 0):.1%}"


def p_text(value: float) -> str:
    """A p-value for a reader."""
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _strip(pictures: Sequence[Picture]) -> str:
    items = (
        f'<li><img alt="" src="data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}">'
        f"{escape(picture.label)} {picture.confidence:.2f}<br>"
        f"<span>{escape(picture.path)}</span></li>"
        for picture in pictures
    )
    strip = "".join(items)
    return f"<h2>Where the model is least sure</h2><ul>{strip}</ul>" if strip else ""


def _caption(verdict: Verdict) -> str:
    pictured = min(PICTURED, len(verdict.findings))
    columns = "every column" if pictured == len(verdict.findings) else f"{pictured} columns"
    return (
        f"Drawn by Evidently: {columns}, those that moved first, from at most {SAMPLE:,} rows "
        "a side; drift scores are the corrected p-values above, made from all rows."
    )


def _ordered(verdict: Verdict) -> list[Finding]:
    """Findings in the order of the page: those that moved, by effect; the others by p-value."""
    steady = [finding for finding in verdict.findings if not finding.moved]
    return [*verdict.moved, *sorted(steady, key=lambda finding: finding.p_value)]


def _evidently_page(
    verdict: Verdict, reference: pd.DataFrame, current: pd.DataFrame, less_than: str
) -> str:
    """Evidently's own page, with `less_than` for every `<` of a class name: it escapes none."""
    evidently = _evidently()
    shown = _ordered(verdict)[:PICTURED]
    findings = {finding.column.replace("<", less_than): finding for finding in shown}
    methods = {
        key: _register(evidently, key, findings)
        for key in {finding.detector for finding in findings.values()}
    }
    report = evidently.Report(
        [
            evidently.metrics.ValueDrift(
                column=column, method=methods[finding.detector], threshold=verdict.alpha
            )
            for column, finding in findings.items()
        ]
    )
    sides = (_dataset(evidently, rows, shown, less_than) for rows in (current, reference))
    results = report.run(*sides).metric_results.values()
    page: str = evidently.core.metric_types.render_widgets([_picture(r) for r in results])
    return page


def _picture(result: Any) -> Any:
    """Evidently's histogram of one column, half a page wide, under what its test said of it.

    In percent, as the two sides differ in rows; without the scatter by row number that Evidently
    puts first, as the rows are a sample in no order.
    """
    said, tabs = result.get_widgets()
    counter = said.params["counters"][0]
    picture = tabs.tabs[-1].widget
    picture.title, picture.size = f"{counter['value']}. {counter['label']}", 1
    menu = picture.params["layout"]["updatemenus"][0]
    menu["active"] = 1
    traces, layout = menu["buttons"][1]["args"]
    for trace, visible in zip(picture.params["data"], traces["visible"], strict=True):
        trace["visible"] = visible
    picture.params["layout"].update(layout)
    return picture


def _register(evidently: ModuleType, key: str, findings: dict[str, Finding]) -> str:
    """Makes one detector's findings a named test of Evidently's, and returns the name."""
    stattests = evidently.legacy.calculations.stattests

    def answer(reference: pd.Series, *_: Any) -> tuple[float, bool]:
        finding = findings[reference.name]
        return finding.corrected_p_value, finding.moved

    test = stattests.registry.StatTest(
        name=f"lookout_{key}",
        display_name=f"{DETECTORS[key].name}, corrected p",
        allowed_feature_types=[evidently.ColumnType.Numerical, evidently.ColumnType.Categorical],
    )
    stattests.registry.register_stattest(test, answer)
    return str(test.name)


def _dataset(
    evidently: ModuleType, rows: pd.DataFrame, shown: Sequence[Finding], less_than: str
) -> Any:
    sample = rows[[finding.column for finding in shown]]
    sample = sample.sample(min(SAMPLE, len(rows)), random_state=0)
    sample = sample.rename(columns=lambda name: name.replace("<", less_than))
    numbers = list(sample.select_dtypes("number"))
    words = [name for name in sample if name not in numbers]
    sample[words] = sample[words].replace("<", less_than, regex=True)
    definition = evidently.DataDefinition(numerical_columns=numbers, categorical_columns=words)
    return evidently.Dataset.from_pandas(sample, data_definition=definition)


def _evidently() -> ModuleType:
    """Evidently, imported on first use: it takes seconds, and warns of its own dependencies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import evidently
        import evidently.core.metric_types
        import evidently.legacy.calculations.stattests
        import evidently.metrics
    module: ModuleType = evidently
    return module
