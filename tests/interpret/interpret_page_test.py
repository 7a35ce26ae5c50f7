"""The page in a browser without a network: what it asks for, and what is read off it."""

import numpy as np
import pytest

from lm.interpret import page
from lm.interpret.cells import Cell
from tests import browser

needs_browser = pytest.mark.skipif(browser.CHROMIUM is None, reason="needs chromium on PATH")
WORDS = ["<s>", "<b> &", " ", "中", "</script>", "\n", "a"]


def cells(words):
    return [Cell(word, i, i + 1, word == "<s>") for i, word in enumerate(words)]


@pytest.fixture
def made(tmp_path):
    C = len(WORDS)
    maps = {"head 0": np.tril(np.full((C, C), 0.25)), "head 1": np.eye(C)}
    loss_C = np.array([np.nan, 1.5, 0.001234, 2.0, 3.0, 0.5, 4.0])
    arabic = cells(["القا", "هرة", " ", "abc"])
    first = [
        page.flow("losses", cells(WORDS), [page.measure("loss", loss_C, unit="nats")]),
        page.matrix("probs", cells(WORDS), cells(WORDS), maps),
        page.table("numbers", ["layer", "accuracy"], [["0", 0.5], ["<i>", float("nan")]]),
    ]
    second = [page.flow("ltr", arabic, [page.measure("x", np.arange(4.0) - 2, signed=True)])]
    sections = [page.section("one", first), page.section("two", second)]
    (tmp_path / "page.html").write_text(page.page("a title </script>", ["a line"], sections))
    return tmp_path / "page.html"


@needs_browser
@pytest.mark.parametrize("width", [400, 1280])
def test_a_page_shows_texts_as_they_are_and_numbers_under_the_pointer(made, width):
    options = dict(viewport={"width": width, "height": 900})
    with browser.opened(made, **options) as (shown, requests, problems):
        flow = shown.locator(".block").first
        texts = flow.locator(".cell").all_inner_texts()
        assert [text.replace("⏎", "") for text in texts] == WORDS
        assert flow.locator(".special").all_inner_texts() == ["<s>"]
        assert flow.locator(".space").count() == 2

        flow.locator(".cell", has_text="中").hover()
        assert shown.locator("#tip").inner_text().split("\n") == ["中", "loss 2 nats"]
        flow.locator(".cell").nth(2).hover()
        assert "loss 0.001234 nats" in shown.locator("#tip").inner_text()
        flow.locator(".cell").first.hover()
        assert "loss none" in shown.locator("#tip").inner_text()
        assert flow.locator(".legend").inner_text().replace("\n", " ").split() == ["0", "4", "nats"]

        matrix = shown.locator(".block").nth(1)
        keys = matrix.locator(".text").nth(1).locator(".cell")
        keys.nth(3).hover()
        assert shown.locator("#tip").inner_text() == "a → 中\n0.25"
        matrix.locator(".text").first.locator(".cell").nth(3).click()
        keys.nth(6).hover()
        assert shown.locator("#tip").inner_text() == "中 → a\nhidden"
        matrix.locator("select").select_option("head 1")
        keys.nth(3).hover()
        assert shown.locator("#tip").inner_text() == "中 → 中\n1"
        assert matrix.locator("canvas").bounding_box()["width"] <= width

        assert "<i>" in shown.locator(".block").nth(2).inner_text()
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.title() == "a title </script>"
        assert (requests, problems) == ([made.as_uri()], [])


@needs_browser
def test_a_text_from_right_to_left_begins_at_the_right(made):
    with browser.opened(made) as (shown, _, problems):
        shown.select_option("#text", "1")
        boxes = [cell.bounding_box()["x"] for cell in shown.locator(".cell").all()]
        assert boxes == sorted(boxes, reverse=True)
        words = "getComputedStyle(document.querySelector('.text')).direction"
        assert shown.evaluate(words) == "rtl"
        colours = [
            cell.evaluate("x => x.style.background") for cell in shown.locator(".cell").all()
        ]
        assert "--low" in colours[0] and "--high" in colours[3]
        assert problems == []


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_dark_or_light_as_it_is_wanted(made, scheme):
    back = "getComputedStyle(document.body).backgroundColor"
    with browser.opened(made, color_scheme=scheme) as (shown, _, _):
        first = shown.evaluate(back)
        shown.click("#theme")
        second = shown.evaluate(back)
    dark, light = "rgb(20, 22, 26)", "rgb(251, 251, 250)"
    assert (first, second) == ((dark, light) if scheme == "dark" else (light, dark))


def test_numbers_that_are_none_are_no_nan():
    made = page.page("t", [], [page.section("s", [page.table("x", ["a"], [[float("inf")]])])])
    assert "[[null]]" in made and "NaN" not in made.split("<script", 2)[1]
