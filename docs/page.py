"""The picture of the app's page: photos dropped on it, and where the first one's answer comes from.

apt-get install chromium && pip install -r docs/requirements.in   # besides the project's own
python -m serving.app --model models:/scenes@champion --log "" &
python docs/page.py --output docs/images/page.png PHOTO PHOTO ...
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1280, 800  # pixels
SETTLE = 500  # milliseconds: pictures appear after they are there


def main() -> None:
    """Takes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:5000")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("photos", nargs="+")
    given = parser.parse_args()
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(given.url)
        page.locator("#files").set_input_files(given.photos)
        why = page.get_by_role("button", name="Why?")
        why.nth(len(given.photos) - 1).wait_for()
        why.first.click()
        page.get_by_text("The brighter a place").first.wait_for()
        page.wait_for_timeout(SETTLE)
        page.screenshot(path=given.output, full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
