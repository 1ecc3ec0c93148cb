"""The page that a person opens: our verdict first, then Evidently's picture of every column.

The only file that imports Evidently. Its tests are named column by column and answer with our
corrected p-values and flags, so neither the page nor Evidently's own UI can say other than the
verdict does. The page is one file that fetches nothing: its content security policy forbids it.
"""

import uuid
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import pandas as pd

from monitoring import samples, sections, tables, workspace
from monitoring.accuracy import Accuracy
from monitoring.drift import Finding, Verdict
from monitoring.history import Past
from monitoring.pictures import Pair, Picture, thumbnail
from monitoring.style import POLICY, STYLE
from monitoring.trend import moment, trend
from monitoring.words import clean, p_text, text_html

__all__ = ["Pair", "Picture", "feed", "p_text", "page", "thumbnail"]

# For `<` in Evidently's UI, which writes names unescaped into the pages that it lets one download.
QUOTE = "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}"
# Between those of the page's light and dark looks: Evidently draws one picture for both.
COLOURS = {"reference": "#8a95a1", "current": "#4a86d8"}


def page(
    verdict: Verdict,
    reference: pd.DataFrame,
    current: pd.DataFrame,
    *,
    model: str,
    source: str,
    unreadable: int | None,
    estimated: Accuracy,
    real: Accuracy | None = None,
    by_class: Mapping[str, Accuracy] | None = None,
    left_out: Sequence[str] = (),
    pairs: Sequence[Pair] = (),
    history: Sequence[Past] = (),
    when: datetime | None = None,
) -> str:
    """The report as one HTML page, below 5 MB for any number of rows.

    reference, current: the frames that `verdict` was made from; columns may be missing.
    model, source: what was checked, in words. unreadable: files without an answer; None where
    nobody counted. estimated, real: accuracy on the current images, without labels and with.
    by_class: real accuracy on the images of each class. left_out: sentences on what this check
    could not do. pairs: the current images least like the reference, the least first.
    history: the checks before this one, the oldest first. when: the time of this one, aware.
    """
    share = None if unreadable is None else unreadable / max(1, unreadable + verdict.images)
    checked = f" Checked on {moment(when)}." if when else ""
    header = "".join(
        [
            f"<h1{' class=drift' if verdict.drift else ''}>{text_html(verdict.sentence)}</h1>",
            f"<p>{text_html(source)} against the test images of {text_html(model)}.{checked}</p>",
            sections.numbers(verdict, unreadable, estimated, real),
            sections.notes(left_out),
            sections.cards(verdict, reference, current, share),
            sections.pairs(pairs),
            sections.classes(reference, current),
            tables.accuracy_by_class(by_class or {}, reference),
            trend([*history, *_now(verdict, real, when)] if history else [], verdict),
            tables.detectors(verdict, reference, current),
        ]
    )
    token = f"less{uuid.uuid4().hex[:12]}"
    snapshot = _snapshot(verdict, reference, current, less_than=token)
    pictured = len(snapshot.metric_results)
    header += f"<h2>Distributions</h2><p>{_caption(pictured, len(verdict.findings))}</p>"
    html = _evidently_page(snapshot).replace(
        "<head>",
        '<head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{text_html(verdict.sentence)}</title><style>{STYLE}</style>",
        1,
    )
    html = html.replace("<body>", f'<body><main class="lookout">{header}</main>', 1)
    return html.replace(token, "\\u003c")


def feed(
    folder: Path,
    project: str,
    verdict: Verdict,
    reference: pd.DataFrame,
    current: pd.DataFrame,
    when: datetime,
) -> None:
    """Adds a check to a project of an Evidently workspace, for `evidently ui --workspace FOLDER`.

    The folder, and the project of this name, are made where they are missing. when: aware.
    Raises UserError where `folder` is something else than a workspace, or cannot be written.
    """
    identity = workspace.project_id(folder, project)
    evidently = _evidently()
    snapshot = _snapshot(verdict, reference, current, less_than=QUOTE, when=when)
    with TemporaryDirectory() as staged:  # Evidently writes in place; the workspace gets it whole
        local = evidently.ui.workspace.Workspace(staged)
        made = local.add_project(evidently.sdk.models.ProjectModel(id=identity, name=project))
        made.dashboard.add_panel(_panel(evidently, verdict))
        model = snapshot.to_snapshot_model()
        model.widgets = _widgets(snapshot)
        local.state.write_snapshot(identity, evidently.legacy.core.new_id(), model)
        workspace.publish(Path(staged), folder)


def _now(verdict: Verdict, real: Accuracy | None, when: datetime | None) -> list[Past]:
    """What this check adds to the past ones."""
    if when is None:
        return []
    return [
        Past(
            run_id="this one",
            time=when,
            drift=verdict.drift,
            images=verdict.images,
            estimated_accuracy=verdict.estimated_accuracy,
            accuracy=None if real is None else real.value,
            largest_effect=max((f.effect_size for f in verdict.findings), default=0.0),
            version="",
        )
    ]


def _caption(pictured: int, findings: int) -> str:
    columns = "every column" if pictured == findings else f"{pictured} columns"
    return (
        f"Drawn by Evidently: {columns}, those that moved first, from at most {samples.SAMPLE:,} "
        "rows a side; drift scores are the corrected p-values above, made from all rows."
    )


def _panel(evidently: ModuleType, verdict: Verdict) -> Any:
    """A chart of every check's drift scores, for the dashboard of a project."""
    metric = evidently.sdk.models.PanelMetric(metric="ValueDrift", legend="{{column}}")
    return evidently.sdk.panels.line_plot_panel(
        title="Corrected p-value of every column",
        description=f"Drift where it is {verdict.alpha:g} or less and the effect is large enough.",
        values=[metric],
    )


def _snapshot(
    verdict: Verdict,
    reference: pd.DataFrame,
    current: pd.DataFrame,
    less_than: str,
    when: datetime | None = None,
) -> Any:
    """Evidently's report of the columns that both frames have, with our findings as its tests.

    less_than: stands for every `<` of a class name, as Evidently's page escapes none.
    """
    evidently = _evidently()
    shown = samples.shown(verdict, reference, current)
    names = samples.names([finding.column for finding in shown], less_than)
    findings = {names[finding.column]: finding for finding in shown}
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
        ],
        include_tests=True,
    )
    before, now = samples.sides(reference, current, names, less_than)
    snapshot = report.run(
        _dataset(evidently, now),
        _dataset(evidently, before),
        timestamp=when and when.astimezone().replace(tzinfo=None),  # as Evidently's own are
        tags=["drift" if verdict.drift else "no drift"],
        metadata={"verdict": clean(verdict.sentence), "images": str(verdict.images)},
    )
    for result in snapshot.metric_results.values():
        result.widget = [_picture(result)]
    return snapshot


def _evidently_page(snapshot: Any) -> str:
    """Evidently's own page of a snapshot, with the pictures of `_picture`."""
    page: str = _evidently().core.metric_types.render_widgets(_widgets(snapshot))
    return page


def _widgets(snapshot: Any) -> list[Any]:
    return [widget for result in snapshot.metric_results.values() for widget in result.widget]


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
    picture.params["layout"].update(layout, legend={"orientation": "h", "y": -0.12, "x": 0})
    for trace in picture.params["data"]:
        trace["marker"] = {**trace.get("marker", {}), "color": COLOURS[trace["name"]]}
    return picture


def _register(evidently: ModuleType, key: str, findings: Mapping[str, Finding]) -> str:
    """Makes one detector's findings a named test of Evidently's, and returns the name."""
    stattests = evidently.legacy.calculations.stattests
    found = {name: finding for name, finding in findings.items() if finding.detector == key}
    display = tables.test_of(next(iter(found.values())))

    def answer(reference: pd.Series, *_: Any) -> tuple[float, bool]:
        finding = found[reference.name]
        return finding.corrected_p_value, finding.moved

    test = stattests.registry.StatTest(
        name=f"lookout_{key}",
        display_name=f"{display}, corrected p",
        allowed_feature_types=[evidently.ColumnType.Numerical, evidently.ColumnType.Categorical],
    )
    stattests.registry.register_stattest(test, answer)
    return str(test.name)


def _dataset(evidently: ModuleType, sample: pd.DataFrame) -> Any:
    numbers = list(sample.select_dtypes("float"))
    words = [name for name in sample if name not in numbers]
    definition = evidently.DataDefinition(numerical_columns=numbers, categorical_columns=words)
    return evidently.Dataset.from_pandas(sample, data_definition=definition)


def _evidently() -> ModuleType:
    """Evidently, imported on first use: it takes seconds, and warns of its own dependencies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import evidently
        import evidently.core.metric_types
        import evidently.legacy.calculations.stattests
        import evidently.legacy.core
        import evidently.metrics
        import evidently.sdk.models
        import evidently.sdk.panels
        import evidently.ui.workspace
    module: ModuleType = evidently
    return module
