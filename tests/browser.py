"""Pages in a headless Chromium, without a network."""

import contextlib
import shutil

CHROMIUM = shutil.which("chromium")


@contextlib.contextmanager
def opened(path, **options):
    """Yields a page that was opened, and lists of what it asked for and of what went wrong."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root there is no sandbox.
        launch = {"executable_path": CHROMIUM, "args": ["--no-sandbox", "--disable-gpu"]}
        with playwright.chromium.launch(**launch) as browser:
            page = browser.new_context(offline=True, **options).new_page()
            requests, problems = [], []
            page.on("request", lambda request: requests.append(request.url))
            page.on("console", lambda message: problems.append(message.text))
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(path.as_uri())
            yield page, requests, problems
