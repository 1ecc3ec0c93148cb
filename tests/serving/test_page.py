"""The page at the server's root, used in a browser as people without code use it."""

import base64
import csv
import io
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.serving.servers import Server, Servers

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Route

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = playwright.expect
CHROMIUM = shutil.which("chromium")
CHAMPION = "models:/colours@champion"
TOKEN = "open-sesame"
COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
# What Chromium logs of a status that the page itself asks for, and answers with a sentence.
STATUS = "Failed to load resource: the server responded with a status of"
GIVE = """([[name, text], event]) => {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const given = new DataTransfer();
    given.items.add(new File([bytes], name, { type: "image/png" }));
    document.dispatchEvent(event === "drop"
        ? new DragEvent("drop", { dataTransfer: given, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: given }));
}"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: chromium)"),
]


@pytest.fixture(scope="module")
def server(servers: Servers, store: str) -> Server:
    return servers.app(store, CHAMPION)


@pytest.fixture(scope="module")
def guarded(servers: Servers, store: str) -> Server:
    return servers.app(store, CHAMPION, LOOKOUT_TOKEN=TOKEN)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@dataclass
class Watch:
    """What the pages of a test asked for, and what they complained of."""

    urls: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def visit(browser: "Browser", watch: Watch) -> Iterator[Callable[..., "Page"]]:
    """Makes a page, not opened yet, in a browser's profile of its own."""
    contexts = []

    def make(**options: Any) -> "Page":
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("request", lambda request: watch.urls.append(request.url))
        page.on("console", lambda told: told.type == "error" and watch.errors.append(told.text))
        page.on("pageerror", lambda error: watch.errors.append(str(error)))
        return page

    yield make
    for context in contexts:
        context.close()
    assert [error for error in watch.errors if not error.startswith(STATUS)] == []


@pytest.fixture
def page(visit: Callable[..., "Page"], server: Server) -> "Page":
    opened = visit()
    opened.goto(server.url)
    return opened


def photo(colour: str, kind: str = "PNG", size: tuple[int, int] = (60, 40)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, COLOURS[colour]).save(file, kind)
    return file.getvalue()


def upload(name: str, content: bytes, kind: str = "image/png") -> dict[str, Any]:
    return {"name": name, "mimeType": kind, "buffer": content}


def choose(page: "Page", *files: dict[str, Any]) -> None:
    expect(page.locator("#drop")).to_be_visible()
    page.set_input_files("#files", list(files))


def give(page: "Page", event: str, name: str, content: bytes) -> None:
    """Drops or pastes a photo."""
    expect(page.locator("#drop")).to_be_visible()
    page.evaluate(GIVE, [[name, base64.b64encode(content).decode()], event])


def card(page: "Page", name: str) -> "Locator":
    return page.locator(".card").filter(has=page.get_by_text(name, exact=True))


def test_the_heading_names_the_model_and_its_version(page: "Page") -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text("colours version 1")
    expect(page.locator("#classes")).to_have_text("Answers with blue, green, or red.")


def test_a_dropped_photo_shows_its_label_and_bars(page: "Page") -> None:
    give(page, "drop", "a.png", photo("red"))
    expect(page.locator(".label")).to_have_text("red")
    expect(page.locator(".confidence")).to_have_text(page.locator(".percent").first.inner_text())
    names = page.locator(".bars .class").all_inner_texts()
    assert names[0] == "red"
    assert sorted(names) == ["blue", "green", "red"]
    percents = [float(text.strip("<>%")) for text in page.locator(".percent").all_inner_texts()]
    assert percents == sorted(percents, reverse=True)
    assert percents[0] > 90
    widths = [bar["width"] for bar in map(box, page.locator(".fill").all())]
    assert widths[0] > 10 * widths[1]
    expect(page.locator("#told")).to_contain_text("a.png: red, ")


def box(of: "Locator") -> dict[str, float]:
    found = of.bounding_box()
    return {"width": 0.0} if found is None else dict(found)


def test_a_pasted_photo_is_answered(page: "Page") -> None:
    give(page, "paste", "image.png", photo("blue"))
    expect(page.locator(".label")).to_have_text("blue")


def test_one_photo_alone_is_explained_at_once(page: "Page") -> None:
    choose(page, upload("a.png", photo("red", size=(90, 30))))
    overlay, why = page.locator(".overlay"), page.get_by_role("button", name="Why?")
    expect(overlay).to_be_visible()
    expect(page.get_by_text("The brighter a place, the more the answer")).to_be_visible()
    overlay.evaluate("image => image.decode()")
    assert box(overlay) == box(page.locator(".photo"))
    assert box(overlay)["width"] == pytest.approx(3 * box(overlay)["height"], rel=0.02)
    why.click()
    expect(overlay).to_be_hidden()
    expect(why).to_have_attribute("aria-pressed", "false")


def test_of_several_photos_one_is_explained_when_asked(page: "Page", watch: Watch) -> None:
    choose(page, upload("a.png", photo("red")), upload("b.png", photo("blue")))
    expect(page.locator(".label")).to_have_text(["red", "blue"])
    assert [url for url in watch.urls if "/explain" in url] == []
    card(page, "b.png").get_by_role("button", name="Why?").click()
    expect(card(page, "b.png").locator(".overlay")).to_be_visible()
    expect(card(page, "a.png").locator(".overlay")).to_be_hidden()
    assert watch.urls[-1].endswith("/explain?label=blue") or watch.urls[-1].startswith("blob:")


def test_a_refused_photo_says_why_and_the_others_go_on(page: "Page") -> None:
    choose(
        page,
        upload("a.png", photo("red")),
        upload("notes.jpg", b"not an image", "image/jpeg"),
        upload("b.png", photo("red")),
        upload("c.png", photo("green")),
    )
    expect(page.locator("#counts li")).to_have_text(["2 red", "1 without an answer", "1 green"])
    expect(page.locator(".file")).to_have_text(["a.png", "notes.jpg", "b.png", "c.png"])
    refused = card(page, "notes.jpg")
    expect(refused.locator(".refusal .error")).to_contain_text("cannot be read")
    expect(refused.get_by_role("button", name="Try again")).to_be_hidden()
    told = "4 photos: 2 red, 1 without an answer, 1 green."
    expect(page.locator("#told")).to_have_text(told)


def test_a_file_that_the_browser_cannot_show_is_answered(page: "Page") -> None:
    choose(page, upload("scan.tiff", photo("green", "TIFF"), "image/tiff"))
    expect(page.locator(".label")).to_have_text("green")
    expect(page.get_by_text("This browser cannot show this file.")).to_be_visible()
    expect(page.get_by_role("button", name="Why?")).to_be_hidden()


def test_the_csv_holds_a_row_a_photo_and_no_formula(page: "Page") -> None:
    choose(
        page,
        upload("a.png", photo("red")),
        upload('=cmd("x").png', photo("blue")),
        upload("bad.png", b"bad"),
    )
    expect(page.locator("#counts li")).to_have_count(3)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download CSV").click()
    text = download.value.path().read_text("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["file"] for row in rows] == ["a.png", '\'=cmd("x").png', "bad.png"]
    assert [row["label"] for row in rows] == ["red", "blue", ""]
    assert 0.9 < float(rows[0]["confidence"]) < 1


def test_a_file_name_is_text_and_never_html(page: "Page") -> None:
    name = "<img src=x onerror=alert(1)>.png"
    choose(page, upload(name, photo("red")))
    expect(page.locator(".file")).to_have_text(name)
    expect(page.locator(".file img")).to_have_count(0)


def test_four_photos_at_a_time_are_asked_about_and_cards_keep_their_order(page: "Page") -> None:
    held: list[Route] = []
    page.route("**/predict", lambda route: held.append(route))
    names = [f"{index}.png" for index in range(9)]
    choose(page, *(upload(name, photo("red")) for name in names))
    for answered, asked in ((0, 4), (4, 4), (8, 1)):
        expect(page.locator("#progress-text")).to_have_text(f"{answered} of 9")
        until(page, lambda asked=asked: len(held) >= asked)
        page.wait_for_timeout(100)  # for one too many
        assert len(held) == asked
        for route in [held.pop() for _ in range(asked)]:  # the last is answered first
            route.continue_()
        expect(page.locator(".answer:visible")).to_have_count(answered + asked)
    expect(page.locator(".file")).to_have_text(names)
    expect(page.locator("#progress")).to_be_hidden()


def until(page: "Page", holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, "not within ten seconds"
        page.wait_for_timeout(20)


def test_clearing_takes_cards_and_their_photos_away(page: "Page", watch: Watch) -> None:
    choose(page, upload("a.png", photo("red")), upload("b.png", photo("blue")))
    expect(page.locator("#counts li")).to_have_count(2)
    url = page.locator(".photo").first.get_attribute("src")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#results")).to_be_hidden()
    image = page.evaluate_handle("() => new Image()")
    loads = "(image, url) => { image.src = url; return image.decode().then(() => 1, () => 0); }"
    assert image.evaluate(loads, url) == 0
    watch.errors.remove("Failed to load resource: net::ERR_FILE_NOT_FOUND")
    choose(page, upload("c.png", photo("green")))
    expect(page.locator(".label")).to_have_text("green")


def test_a_busy_server_is_asked_again_when_it_says(page: "Page") -> None:
    told = {"error_code": "BUSY", "message": "The server is busy; ask again."}
    asked: list[float] = []

    def busy_once(route: "Route") -> None:
        asked.append(time.monotonic())
        if len(asked) == 1:
            route.fulfill(status=503, headers={"Retry-After": "1"}, json=told)
        else:
            route.continue_()

    page.route("**/predict", busy_once)
    choose(page, upload("a.png", photo("red")))
    expect(page.locator(".label")).to_have_text("red")
    assert len(asked) == 2
    assert asked[1] - asked[0] >= 1


def test_a_photo_that_did_not_reach_the_server_can_be_tried_again(page: "Page") -> None:
    page.route("**/predict", lambda route: route.fulfill(status=502, body="<h1>Bad</h1>"))
    choose(page, upload("a.png", photo("red")))
    expect(page.locator(".refusal")).to_contain_text("The server refused with status 502.")
    page.unroute("**/predict")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".label")).to_have_text("red")
    expect(page.locator(".refusal")).to_be_hidden()


def test_a_server_without_a_model_says_so_until_it_has_one(
    visit: Callable[..., "Page"], server: Server
) -> None:
    told = {"error_code": "NOT_READY", "message": "Waiting for models:/colours@champion."}
    page = visit()
    page.clock.install()
    page.route("**/model", lambda route: route.fulfill(status=503, json=told))
    page.goto(server.url)
    expect(page.get_by_role("status").first).to_have_text(told["message"])
    expect(page.locator("#drop")).to_be_hidden()
    page.unroute("**/model")
    page.clock.run_for(5_000)
    expect(page.get_by_role("heading", level=1)).to_have_text("colours version 1")
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#drop")).to_be_visible()


def test_the_heading_follows_the_version_that_answers(page: "Page") -> None:
    def newer(route: "Route") -> None:
        answer = route.fetch()
        told = answer.json()
        model = told.get("model", told)
        model["version"] = "2"
        route.fulfill(response=answer, json=told)

    expect(page.locator("#version")).to_have_text("version 1")
    page.route("**/predict", newer)
    page.route("**/model", newer)
    with page.expect_response("**/model"):  # the newer version's classes
        choose(page, upload("a.png", photo("red")))
    expect(page.locator("#version")).to_have_text("version 2")
    expect(page).to_have_title("colours, version 2")


def test_a_correction_is_saved_with_its_photo(page: "Page", server: Server) -> None:
    content = photo("red", size=(61, 41))
    choose(page, upload("a.png", content))
    page.get_by_role("button", name="Wrong?").click()
    page.get_by_label("It is").select_option("green")
    page.get_by_role("button", name="Correct it").click()
    expect(page.locator(".saved")).to_have_text("Saved, thank you.")
    assert ("green", content) in saved(server)


def saved(server: Server) -> list[tuple[str, bytes]]:
    return [tuple(row) for row in server.rows("SELECT label, image FROM feedback")]


def test_a_correction_is_not_offered_where_the_server_takes_none(
    visit: Callable[..., "Page"], server: Server
) -> None:
    def without(route: "Route") -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"feedback": False})

    page = visit()
    page.route("**/model", without)
    page.goto(server.url)
    choose(page, upload("a.png", photo("red")))
    expect(page.get_by_role("button", name="Why?")).to_be_visible()
    expect(page.get_by_role("button", name="Wrong?")).to_be_hidden()


def test_a_token_is_asked_for_refused_and_kept(
    visit: Callable[..., "Page"], guarded: Server
) -> None:
    page = visit()
    page.goto(guarded.url)
    field, go = page.get_by_label("asks for a token"), page.get_by_role("button", name="Continue")
    expect(field).to_be_focused()
    expect(page.locator("#drop")).to_be_hidden()
    expect(page.get_by_role("alert")).to_have_text("")
    field.fill("wrong")
    go.click()
    expect(page.get_by_role("alert")).to_have_text("The server does not know this token.")
    field.fill(TOKEN)
    field.press("Enter")
    expect(page.locator("#token-form")).to_be_hidden()
    choose(page, upload("a.png", photo("red")))
    expect(page.locator(".overlay")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("colours version 1")
    expect(page.locator("#token-form")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways(
    visit: Callable[..., "Page"], server: Server, scheme: str
) -> None:
    page = visit(
        viewport={"width": 320, "height": 640},
        color_scheme=scheme,
        has_touch=True,
        is_mobile=True,
    )
    page.goto(server.url)
    long = "a-very-long-name-" * 8
    choose(
        page,
        upload(f"{long}.png", photo("red", size=(900, 60))),
        upload("b.png", photo("red", size=(60, 900))),
        upload("bad.png", b"bad"),
    )
    expect(page.locator("#counts li")).to_have_text(["2 red", "1 without an answer"])
    page.get_by_role("button", name="Why?").first.click()
    page.get_by_role("button", name="Wrong?").first.click()
    expect(page.locator(".overlay").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    beyond = "e => e.filter(one => one.getBoundingClientRect().right > 320).length"
    assert page.locator("main *:visible").evaluate_all(beyond) == 0


def test_the_keyboard_alone_reaches_an_answer_and_corrects_it(
    visit: Callable[..., "Page"], server: Server, tmp_path: Path
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(photo("red", size=(62, 42)))
    page = visit()
    # Not `expect_file_chooser`: it may begin to listen only after the key.
    page.on("filechooser", lambda chooser: chooser.set_files(file))
    page.goto(server.url)
    expect(page.locator("#drop")).to_be_visible()
    tab_to(page, page.locator("#files"))
    page.keyboard.press("Enter")
    why, overlay = page.get_by_role("button", name="Why?"), page.locator(".overlay")
    expect(overlay).to_be_visible()
    tab_to(page, why)
    page.keyboard.press("Space")
    expect(overlay).to_be_hidden()
    page.keyboard.press("Enter")
    expect(overlay).to_be_visible()
    tab_to(page, page.get_by_role("button", name="Wrong?"))
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_label("It is"))
    page.keyboard.type("gr")
    tab_to(page, page.get_by_role("button", name="Correct it"))
    page.keyboard.press("Enter")
    expect(page.locator(".saved")).to_have_text("Saved, thank you.")
    assert ("green", file.read_bytes()) in saved(server)


def tab_to(page: "Page", target: "Locator") -> None:
    for _ in range(10):
        page.keyboard.press("Tab")
        if target.evaluate("element => element === document.activeElement"):
            return
    pytest.fail(f"ten tabs do not reach {target}")


def test_nothing_leaves_the_origin_and_no_error_is_logged(
    visit: Callable[..., "Page"], server: Server, watch: Watch
) -> None:
    page = visit()
    answer = page.goto(server.url)
    assert answer is not None
    policy = "default-src 'self'; img-src 'self' blob: data:"
    assert answer.headers["content-security-policy"].startswith(policy)
    choose(page, upload("a.png", photo("red")))
    expect(page.locator(".overlay")).to_be_visible()
    page.get_by_role("button", name="Wrong?").click()
    page.get_by_label("It is").select_option("blue")
    page.get_by_role("button", name="Correct it").click()
    expect(page.locator(".saved")).to_have_text("Saved, thank you.")
    choose(page, upload("b.png", photo("green")))
    expect(page.locator("#counts li")).to_have_count(2)
    with page.expect_download():
        page.get_by_role("link", name="Download CSV").click()
    page.get_by_role("button", name="Clear").click()
    own = (f"{server.url}/", f"blob:{server.url}/", "data:")
    assert [url for url in watch.urls if not url.startswith(own)] == []
    assert watch.errors == []
