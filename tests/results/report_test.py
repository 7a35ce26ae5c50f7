"""The page about runs: complete by itself, and alive in a browser."""

import json
import re

import pytest

from lm.results.__main__ import main
from tests.browser import CHROMIUM, opened
from tests.run_folders import config, losses, write

# What the page is about: a name that would end its script, and be markup.
ODD = "</script><b>x&y"


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        for name in ("adamw", ODD):
            folder = root / f"{len(name)}-{seed}"
            records = [*losses(4.0, 3.0 + seed, None, 2.0), *losses(5.0, 4.0, name="train/loss")]
            write(folder, config(seed, name=name), sorted(records, key=lambda r: r["step"]))
    write(root / "dead", config(2, name="adamw"), losses(4.0, 3.5), done=False, tail='{"st')
    assert main(["report", str(root)]) == 0
    return root / "report.html"


def test_a_page_names_no_other_file(page_path):
    text = page_path.read_text()

    own = re.sub(r"(?s)<script>.*?</script>", "", text)
    assert not re.search(r"(src|href)=(?!\"data:)", own)
    assert "last line of metrics.jsonl half-written" in own and "dead at 2" in own
    (data,) = re.findall(r"const plots = (.*);\n", text)
    first, second = (plot["layout"]["yaxis"]["title"]["text"] for plot in json.loads(data))
    assert first.startswith("eval/loss") and second.startswith("train/loss")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH")
def test_a_page_opens_without_a_network_and_hides_what_is_clicked(page_path):
    viewport = {"width": 1200, "height": 900}
    with opened(page_path, viewport=viewport) as (page, requests, problems):
        page.wait_for_selector("#plot1 .legend .traces")
        text = page.inner_text("body")
        visible = "[gd => gd.data.map(trace => trace.visible ?? true)][0](plot0)"
        before = page.evaluate(visible)
        page.locator("#plot0 .legendtoggle").first.click()
        page.wait_for_function(f"{visible}.includes('legendonly')")
        after = page.evaluate(visible)
        num_odd = page.locator("b").count()
        page.set_viewport_size({"width": 560, "height": 900})
        page.hover("#plot0 .nsewdrag")  # The tool bar is there while the mouse is.
        tools, buttons = (
            page.locator(f"#plot0 {name}").bounding_box()
            for name in (".modebar-container .modebar", ".updatemenu-container")
        )

    assert requests == [page_path.as_uri()] and problems == []
    assert (
        num_odd == 0 and ODD in text and "5 runs: 4 done, 1 dead" in text and "95% interval" in text
    )
    assert buttons["x"] + buttons["width"] <= tools["x"]
    # A band and a line of each config, and the dead run of the first.
    assert before == [True] * 5
    assert sorted(map(str, after)) == ["True"] * 3 + ["legendonly"] * 2


def test_names_reorder_no_page(tmp_path):
    for seed, name in enumerate(("x", "\u202egnp.exe\u2028")):
        write(tmp_path / str(seed), config(seed, name=name), losses(1.0))

    assert main(["report", str(tmp_path)]) == 0

    text = (tmp_path / "report.html").read_text()
    assert "\\u202egnp.exe\\u2028" in text
    assert not {"\u202e", "\u2028"} & set(text)
