"""The README's pictures of the MLflow UI: a search's runs, their comparison, its artifacts.

    apt-get install chromium && pip install -r docs/requirements.in   # besides the project's own
    python docs/screenshots.py --tracking_uri sqlite:///mlflow.db --run RUN_ID --output docs/images

RUN_ID is a finished search's, as `mlflow run .` prints it. Takes half a minute. A real `mlflow
server` answers on a free loopback port until the pictures are taken; the page may ask it for
anything but a change of the store, and no other host for anything. What a reader would click
(columns, charts, no assistant) is set where the UI of MLflow 3.17 keeps it: in the page's address
and in its local storage.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from playwright.sync_api import BrowserContext, Page, Route, sync_playwright

WIDTH = 1400  # pixels
SECONDS = 60  # to wait for the server, and for a page
SETTLE = 1500  # milliseconds: charts move to their places after they are drawn
PICTURE = "comparison.png"
METRICS = ("test_accuracy", "val_accuracy", "overfit_gap", "latency_ms", "size_mb")
CHARTS = ("test_accuracy", "overfit_gap", "latency_ms", "size_mb")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WRITES = ("/create", "/update", "/delete", "/restore", "/set-", "/log-", "/upload")


class UsageError(Exception):
    """What the caller can put right."""


@dataclass(frozen=True)
class Search:
    """A search's run, and what the UI needs to know to show it.

    architectures: the names of its architectures' runs; alone: no other search is beside it.
    """

    run: str
    experiment: str
    architectures: tuple[str, ...]
    alone: bool


def find(tracking_uri: str, run: str) -> Search:
    """The search in its store. Raises UsageError where it is not there, or has not finished."""
    client = MlflowClient(tracking_uri)
    try:
        experiment = client.get_run(run).info.experiment_id
        logged = {artifact.path for artifact in client.list_artifacts(run)}
    except MlflowException as error:
        raise UsageError(
            f"Expected --run to be a run in {tracking_uri}, got {run!r}: {error.message}"
        ) from error
    runs = client.search_runs([experiment], "tags.level = 'architecture'")
    own = [child for child in runs if child.data.tags["mlflow.parentRunId"] == run]
    if not own or PICTURE not in logged:
        raise UsageError(
            f"Expected --run to be a finished search's run, but {run} has {len(own)} runs of "
            f"architectures, and {PICTURE} is {'' if PICTURE in logged else 'not '}logged."
        )
    names = tuple(str(child.info.run_name) for child in own)
    return Search(run, experiment, names, alone=len(own) == len(runs))


@contextmanager
def server(tracking_uri: str) -> Iterator[str]:
    """A tracking server on the store, ended with the block; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracking_uri]
    process = subprocess.Popen(  # noqa: S603 - its own interpreter
        [*command, "--port", str(port), "--workers", "1"],
        env=os.environ
        | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _await_health(process, address)
        yield address
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)  # its workers, too
            process.wait()


def _await_health(process: subprocess.Popen[bytes], address: str) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urlopen(f"{address}/health", timeout=SECONDS):  # noqa: S310 - http, loopback
                return
        except URLError:
            time.sleep(0.3)
    raise UsageError(
        f"Expected an answer from {address} within {SECONDS} s, but there was none; see what "
        "`mlflow server --backend-store-uri` says with the same --tracking_uri."
    )


@contextmanager
def browser(executable: str, address: str, search: Search) -> Iterator[BrowserContext]:
    """Headless Chromium that shows the UI as `view` sets it, and changes nothing in the store."""

    def guard(route: Route) -> None:
        url = route.request.url
        if url.startswith(address) and not any(word in url for word in WRITES):
            route.continue_()
        else:
            route.abort()

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
        context = chromium.new_context(base_url=address, device_scale_factor=1, locale="en-GB")
        context.set_default_timeout(1000 * SECONDS)
        context.route("**/*", guard)
        context.add_init_script(
            f"for (const [k, v] of Object.entries({json.dumps(view(search))}))"
            " localStorage.setItem(k, v)"
        )
        try:
            yield context
        finally:
            chromium.close()


def view(search: Search) -> dict[str, str]:
    """Local storage of the UI: the sidebar of model training, the columns, and the charts."""
    columns = [f"metrics.`{name}`" for name in METRICS] + ["tags.`alias`"]
    fixed = ["attributes.`Run Name`", "runDateAndNestInfo", "duration"]
    experiment = {
        "selectedColumns": columns,
        "columnOrder": [*fixed, *columns],
        "columnWidths": {"attributes.`Run Name`": 190} | dict.fromkeys(columns, 108),
        "runsExpanded": {search.run: True},
        "compareRunCharts": [_chart(metric) for metric in CHARTS],
        "compareRunSections": [
            _section("Architectures", columns=2, cardHeight=285),
            _section("Model metrics", display=False),
        ],
        "isAccordionReordered": True,
    }
    page = f"MLflowLocalStorage-1.1-ExperimentPage-{json.dumps([search.experiment])}"
    state = {
        "mlflow.workflowType_v1": "machine_learning",
        "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,
        "mlflow.assistant.panelOpen_v1": False,
        f"{page}-ReactComponentState": experiment,
    }
    return {key: json.dumps(value) for key, value in state.items()}


def _chart(metric: str) -> dict[str, Any]:
    return {
        "uuid": metric,
        "type": "BAR",
        "metricKey": metric,
        "metricSectionId": "Architectures",
        "runsCountToCompare": 10,
        "deleted": False,
        "isGenerated": False,
    }


def _section(name: str, *, display: bool = True, **layout: int) -> dict[str, Any]:
    return {"uuid": name, "name": name, "display": display, "isReordered": False} | layout


def runs(page: Page, search: Search) -> None:
    """The run list, with the search opened: its architectures, without their trials."""
    _open_list(page, search, searchFilter="tags.level != 'trial'")
    for name in search.architectures:
        page.get_by_role("link", name=name, exact=True).first.wait_for()
    rows = page.locator(".ag-center-cols-container").first.bounding_box()
    if rows:
        _resize(page, int(rows["y"] + rows["height"]) + 100)


def compare(page: Page, search: Search) -> None:
    """The architectures side by side, best first: a bar chart for each of CHARTS."""
    condition = "tags.level = 'architecture'"
    if not search.alone:
        condition += f" and tags.study LIKE '{search.run}/%'"
    _open_list(
        page,
        search,
        searchFilter=condition,
        orderByKey=f"metrics.`{CHARTS[0]}`",
        compareRunsMode="CHART",
    )
    page.locator(".js-plotly-plot .bars").nth(len(CHARTS) - 1).wait_for()


def artifacts(page: Page, search: Search) -> None:
    """The artifacts of the search, with the comparison of the architectures opened."""
    page.goto(f"/#/experiments/{search.experiment}/runs/{search.run}/artifacts/{PICTURE}")
    page.locator("img[src^='blob:'], img[src*='get-artifact']").first.wait_for()


def _open_list(page: Page, search: Search, **query: str) -> None:
    fixed = {"orderByKey": "attributes.start_time", "orderByAsc": "false", "startTime": "ALL"}
    page.goto(f"/#/experiments/{search.experiment}/runs?{urlencode(fixed | query)}")


def _resize(page: Page, height: int) -> None:
    page.set_viewport_size({"width": WIDTH, "height": height})


PICTURES = {  # name -> what to show, height at first in pixels
    "mlflow-runs.png": (runs, 800),
    "mlflow-compare.png": (compare, 900),
    "mlflow-artifacts.png": (artifacts, 720),
}


def take(context: BrowserContext, search: Search, output: Path) -> None:
    """Takes every picture into `output`."""
    for name, (show, height) in PICTURES.items():
        page = context.new_page()
        _resize(page, height)
        show(page, search)
        page.wait_for_timeout(SETTLE)
        page.mouse.move(0, 0)
        path = output / name
        page.screenshot(path=path, style="[data-assistant-ui] { display: none }")
        page.close()
        print(f"{path}: {path.stat().st_size / 1000:.0f} KB")


def main() -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tracking_uri", default="sqlite:///mlflow.db", help="database with runs")
    parser.add_argument("--run", required=True, help="id of a finished search's run")
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="folder")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser")
    given = parser.parse_args()
    try:
        search = find(given.tracking_uri, given.run)
        given.output.mkdir(parents=True, exist_ok=True)
        with (
            server(given.tracking_uri) as address,
            browser(given.chromium, address, search) as context,
        ):
            take(context, search, given.output)
    except UsageError as error:
        print(f"screenshots: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
