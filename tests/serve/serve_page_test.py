"""The page at /, in a browser, beside a service that writes a known text."""

import contextlib
import dataclasses
import http.client

import pytest

from lm.data.records import Record
from lm.errors import UserError
from lm.serve.batching import Batches
from lm.serve.served_model import ServedTask
from lm.tasks.prediction import Predicted
from tests import fake_service
from tests.browser import CHROMIUM
from tests.fake_service import TEXT

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH")


@contextlib.contextmanager
def opened(folder, service, *, key=None, template=fake_service.TURNS, task=None, **options):
    """The page of a server, what it asked for, and what went wrong in it."""
    from playwright.sync_api import sync_playwright

    model = fake_service.make_model(folder / "model", service, template=template)
    if task is not None:
        model = dataclasses.replace(model, service=None, task=task)
    application = fake_service.make_app([model], key=key)
    with fake_service.Served(application) as served, sync_playwright() as playwright:
        launch = {"executable_path": CHROMIUM, "args": ["--no-sandbox", "--disable-gpu"]}
        with playwright.chromium.launch(**launch) as browser:
            page = browser.new_context(**options).new_page()
            requests, problems = [], []
            page.on("request", lambda request: requests.append(request.url))
            page.on("console", lambda message: problems.append(message.text))
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(served.url + "/")
            if key is None:
                page.locator("#model option").first.wait_for(state="attached")
            yield page, requests, problems
            assert all(url.startswith((served.url, "data:")) for url in requests), requests
    service.close()


def pieces(page):
    return page.locator("#choices .choice").first.locator(".piece").all_inner_texts()


def set_number(page, name, value):
    page.locator(f"#{name}").evaluate("(input, value) => { input.value = value; }", str(value))


def test_the_page_is_one_file_that_may_ask_for_nothing_elsewhere(tmp_path):
    service = fake_service.FakeService()
    model = fake_service.make_model(tmp_path / "model", service)
    key = b"a-key-of-many-letters"
    with fake_service.Served(fake_service.make_app([model], key=key)) as served:
        connection = http.client.HTTPConnection("127.0.0.1", served.port)
        connection.request("GET", "/")
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
    service.close()

    assert answer.status == 200
    assert "default-src 'none'" in answer.getheader("Content-Security-Policy")
    assert "http" not in text.replace("HTTP", "")
    assert "innerHTML" not in text


@needs_browser
@pytest.mark.parametrize(("width", "language"), [(1280, "en-US"), (400, "zh-CN")])
def test_choices_come_side_by_side_with_the_probability_of_each_token(tmp_path, width, language):
    options = dict(viewport={"width": width, "height": 800}, locale=language)
    with opened(tmp_path, fake_service.FakeService(), **options) as (page, _, problems):
        set_number(page, "n", 2)
        set_number(page, "max_tokens", 100)
        page.fill("#prompt", "hi")
        page.keyboard.press("Enter")
        page.locator("#choices .choice .end button").nth(1).wait_for()

        assert "".join(pieces(page)) == TEXT
        # Bytes of one character are one piece.
        assert "北" in pieces(page) and "👋" in pieces(page)
        assert page.locator(".choice").count() == 2
        page.locator(".piece", has_text="北").first.hover()
        page.locator("#tip tr.taken").nth(2).wait_for()  # Of each of its bytes.
        likely = page.locator("#tip tr.taken").all_inner_texts()
        assert len(likely) == 3 and all("77.9 %" in line for line in likely)  # exp(-0.25)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        title = {"en-US": "Ask the model", "zh-CN": "向模型提问"}[language]
        assert page.inner_text("h1") == title

        # The conversation goes on from the choice that is kept.
        page.locator("#choices .choice .end button").nth(1).click()
        page.fill("#prompt", "more")
        page.keyboard.press("Enter")
        page.locator(".turn", has_text="more").wait_for()
        turns = page.locator(".turn").all_inner_texts()
        assert turns == ["hi", TEXT, "more"]
        assert problems == []


@needs_browser
def test_stop_ends_the_request_and_keeps_what_was_written(tmp_path):
    service = fake_service.FakeService(step_seconds=0.2)
    with opened(tmp_path, service) as (page, _, problems):
        page.fill("#prompt", "hi")
        page.click("#send")
        page.locator(".piece").nth(1).wait_for()
        page.click("#stop")
        page.locator("#send:enabled").wait_for()

        assert TEXT.startswith("".join(pieces(page)))
        page.wait_for_timeout(500)
        assert service.stats()["active"] == 0
        assert len(pieces(page)) < len(TEXT) - 5
        assert problems == []


@needs_browser
def test_without_a_template_texts_are_gone_on_from(tmp_path):
    with opened(tmp_path, fake_service.FakeService(), template=None) as (page, _, problems):
        assert page.locator("#mode").input_value() == "text"
        set_number(page, "max_tokens", 9)
        page.fill("#prompt", "<b>hi</b> ")
        page.keyboard.press("Enter")
        page.locator("#choices .choice .end button").wait_for()

        assert page.inner_text("#choices .choice > div").startswith("<b>hi</b> " + TEXT[:9])
        assert problems == []


def predict(records):
    """Labels a text by its length; one that is empty is an error."""
    said = {"label": "短", "probabilities": {"long": 0.25, "短": 0.75}}
    bad = UserError("records[0]: the field 'text' is missing")
    return [Predicted(each, said if "text" in each.fields else bad, False) for each in records]


@needs_browser
@pytest.mark.parametrize("width", [1280, 400])
def test_a_model_of_a_task_predicts_texts_and_records(tmp_path, width):
    batches = Batches(predict, max_waiting=8)
    from_text = lambda name, text: Record(name, {"text": text})
    task = ServedTask("classification", from_text, batches)
    options = dict(task=task, viewport={"width": width, "height": 800})
    with opened(tmp_path, fake_service.FakeService(), **options) as (page, _, problems):
        assert page.locator("#mode").input_value() == "task"
        for asked in ("北京", '{"text": "x"}'):
            page.fill("#prompt", asked)
            page.keyboard.press("Enter")
            page.locator(".choice", has_text=asked).wait_for()
        shown = page.locator(".choice").first
        assert shown.locator("dd").all_inner_texts() == ["75.0 %", "25.0 %"]
        assert shown.locator("dt").all_inner_texts() == ["短", "long"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert problems == []

        page.fill("#prompt", '{"txt": "x"}')
        page.click("#send")
        page.locator("#problem", has_text="the field 'text' is missing").wait_for()
        page.fill("#prompt", '{"txt": ')
        page.click("#send")
        page.locator("#problem", has_text="JSON").wait_for()
    batches.close()


@needs_browser
def test_a_refusal_is_shown_and_loses_nothing(tmp_path):
    with opened(tmp_path, fake_service.FakeService()) as (page, _, _):
        set_number(page, "max_tokens", 1000)
        page.fill("#prompt", "hi")
        page.click("#send")
        page.locator("#problem", has_text="context is 200").wait_for()

        assert page.input_value("#prompt") == "hi"
        assert page.locator(".turn").count() == 0


@needs_browser
def test_the_key_is_asked_for_and_kept_in_the_page_alone(tmp_path):
    key = "a-key-of-many-letters"
    service = fake_service.FakeService()
    with opened(tmp_path, service, key=key.encode()) as (page, _, _):
        page.locator("#problem", has_text="key").wait_for()
        page.fill("#key", key)
        page.keyboard.press("Tab")
        page.locator("#model option").first.wait_for(state="attached")

        assert page.inner_text("#problem") == ""
        stored = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
        assert key not in page.evaluate(stored)
