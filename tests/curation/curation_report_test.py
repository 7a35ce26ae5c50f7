"""The report of a curation: its numbers are those of report.json, and others' text is only text."""

import html.parser
import json
import re

import pytest

from experiments import curate
from lm.curation import card, inputs, ledger, pictures, report, summary, tallies
from lm.curation.records import Record, digest, encode
from lm.system import markdown
from tests.browser import CHROMIUM, opened

MARKUP = "</blockquote><script>document.title='run'</script><img src='http://x.test/a'><b>&amp;"
ARABIC = "هذا نص عربي قصير كتب لهذا الاختبار."
CHINESE = "河水很平静，渡船上没有人说话。"


def document(text, source="web", fate=("", ""), language="en", **fields):
    place = f"{source}.jsonl:{digest(text)[:4]}"
    one = Record(digest(text), source, place, len(text.encode()), language=language, text=text)
    for name, value in fields.items():
        setattr(one, name, value)
    return one.drop(*fate) if fate[0] else one


@pytest.fixture(scope="module")
def lines():
    """Of four inputs, in three languages, with every kind of fate; one name and text is markup."""
    found = [
        document(f"An English text, number {i}.", measures={"num_units": i}) for i in range(40)
    ]
    found += [
        document(f"{i}", "web", ("quality", "num_units_low"), measures={"num_units": 2})
        for i in range(60)
    ]
    found += [document(f"{CHINESE}{i}", "书", language="zh") for i in range(30)]
    found += [
        document(f"{CHINESE}{i}。", "书", ("duplicates", "near_duplicate"), "zh", of=found[100].id)
        for i in range(5)
    ]
    for one in found[-5:]:
        one.measures = {"similarity": 0.9}
    found[100].copies, found[0].masked = 6, {"email": 2}
    found += [document(f"{ARABIC} {i}", language="ar") for i in range(3)]
    found += [document(f"{MARKUP} {i}", MARKUP, ("read", f"warc_{MARKUP}"), "") for i in range(3)]
    found += [
        document(f"{MARKUP} kept", MARKUP),
        document("\u202egnp.exe\x1b[2J\u200f", language="und"),
    ]
    return list(map(encode, found))


@pytest.fixture(scope="module")
def contents(lines):
    """What report.json holds, of three parts."""
    whole = sum((summary.summarize(lines[i::3]) for i in range(3)), summary.nothing())
    ids = frozenset(cluster[1] for cluster in whole.clusters)
    found = summary.add_examples(summary.examples(lines[i::2], ids=ids) for i in range(2))
    thresholds = {"en": {"num_units": (10, None)}, "*": {"similarity": (None, 0.8)}}
    stages = ("read", "repair", "quality", "duplicates")
    return json.loads(json.dumps(summary.report(whole, found, stages, thresholds)))


@pytest.fixture(scope="module")
def workdir(contents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("curated")
    report.write(contents, folder)
    return folder


class Page(html.parser.HTMLParser):
    """The tags of a page; and of each row of a section's tables, its cells and its numbers."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.addresses = [], [], []
        self._in_table = self._in_name = False
        self._section = self._details = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.addresses += [attributes[x] for x in ("src", "href", "srcset") if x in attributes]
        if tag == "section":
            self._section, self._details = attributes["id"], ""
        if tag == "details":
            self._details = attributes.get("data-language", "")
        if tag == "tr":
            where = (self._section, self._details)
            fate = attributes.get("data-stage"), attributes.get("data-reason")
            self._in_table = True
            self.rows.append({"where": where, "fate": fate, "name": "", "numbers": []})
        if tag in ("th", "td"):
            self._in_name = tag == "th"
        if tag == "data" and self._in_table:
            self.rows[-1]["numbers"].append(int(attributes["value"]))

    def handle_endtag(self, tag):
        if tag == "table":
            self._in_table = False

    def handle_data(self, data):
        if self._in_table and self._in_name:
            self.rows[-1]["name"] += data.strip("\n")

    def of(self, section, language=""):
        return [row for row in self.rows if row["where"] == (section, language) and row["numbers"]]


def test_the_waterfall_adds_up_to_the_ledger(workdir, contents):
    page = Page((workdir / "report.html").read_text())
    counted, stages = ledger.of_rows(contents["ledger"]), tallies.stages(contents)
    left = {}
    for row in contents["waterfall"]:
        left[row["stage"]] = left.get(row["stage"], 0) + row["documents"]

    for language in ("", "en", "zh", "ar", "unknown"):
        part = tallies.only(counted, language=language) if language else counted
        section = "languages" if language else "waterfall"
        first, *dropped, last = page.of(section, language)
        by_fate = ledger.by(part, ("stage", "reason"))
        assert {row["fate"]: tuple(row["numbers"]) for row in dropped} == {
            fate: tuple(count) for fate, count in by_fate.items() if fate[0]
        }
        for i in range(2):
            taken = sum(row["numbers"][i] for row in dropped)
            assert first["numbers"][i] - taken == last["numbers"][i]
            assert first["numbers"][i] == sum(count[i] for count in part.counts.values())
    steps = tallies.waterfall(counted, stages)[1:-1]
    assert [(step.stage, step.left.documents) for step in steps] == [
        (stage, left[stage]) for stage in ("read", "quality", "duplicates")
    ]


def test_sources_and_losses_are_those_of_the_ledger(workdir, contents):
    page = Page((workdir / "report.html").read_text())
    counted = ledger.of_rows(contents["ledger"])

    for section, field in (("sources", "source"), ("languages", "language")):
        rows = {row["name"]: row["numbers"] for row in page.of(section)}
        assert rows.keys() == {getattr(cell, field) for cell in counted.counts}
        for name, numbers in rows.items():
            part = tallies.only(counted, **{field: name})
            parts = part, tallies.only(part, stage="")
            read, kept = (ledger.by(one, ()).get((), ledger.Count()) for one in parts)
            assert numbers == [read.documents, kept.documents, read.num_bytes, kept.num_bytes]
    (loss,) = page.of("losses")
    assert loss["numbers"] == [3, sum(len(f"{MARKUP} {i}".encode()) for i in range(3))]


def test_text_of_others_is_text(workdir):
    text = (workdir / "report.html").read_text()

    page = Page(text)
    assert not {"script", "img", "b", "iframe", "object"} & set(page.tags)
    assert "&lt;/blockquote&gt;&lt;script&gt;" in text and "&amp;amp;" in text
    assert "\\u202egnp.exe\\x1b[2J\u200f" in text
    assert not {"\u202e", "\x1b"} & set(text)


def test_a_page_names_nothing_to_fetch(workdir):
    text = (workdir / "report.html").read_text()

    assert Page(text).addresses == ["data:,"]
    assert not re.search(r"url\(|@import", text)
    assert len(text) < 100_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH")
def test_a_page_is_read_at_any_width(workdir, scheme):
    path = workdir / "report.html"
    with opened(path, color_scheme=scheme) as (page, requests, problems):
        for width in (400, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            # A number that is cut is a wrong one.
            assert page.evaluate(CUT) == []
        title, text = page.title(), page.inner_text("body")
        direction = page.evaluate(DIRECTION, ARABIC), page.evaluate(DIRECTION, CHINESE)
        ink, paper = page.evaluate(
            "[s => [s.color, s.backgroundColor]][0](getComputedStyle(document.body))"
        )

    assert requests == [path.as_uri()] and problems == []
    assert title == "Curation report" and MARKUP in text
    assert direction == (["rtl", "ar"], ["ltr", "zh"])
    assert (brightness(ink) > brightness(paper)) == (scheme == "dark")
    assert abs(brightness(ink) - brightness(paper)) > 500


CUT = """[...document.querySelectorAll('.waterfall td, .waterfall th')]
    .filter(cell => cell.checkVisibility() && cell.scrollWidth > cell.clientWidth + 1)
    .map(cell => cell.innerText)"""
DIRECTION = """start => [one => [getComputedStyle(one).direction, one.lang]][0](
    [...document.querySelectorAll('blockquote')].find(one => one.textContent.startsWith(start)))"""


def brightness(color):
    return sum(map(int, re.findall(r"\d+", color)[:3]))


def test_samples_are_of_each_fate_and_language(contents):
    fates = {(one["stage"], one["reason"], one["language"]) for one in contents["samples"]}

    rows = contents["ledger"]
    assert fates == {(row["stage"], row["reason"], row["language"]) for row in rows}
    (cluster,) = contents["clusters"]
    assert (cluster["copies"], cluster["language"], len(cluster["examples"])) == (6, "zh", 3)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, (0, 0.005)),
        (0.0049, (0, 0.005)),
        (0.57, (0.565, 0.575)),
        (1, (0.995, 1)),
        (1.1, (1, 1.3)),
        (7, (6.3, 8)),
        (10, (10, 13)),
        (95, (80, 100)),
        (120000, (100_000, 130_000)),
    ],
)
def test_a_bar_holds_its_values(value, expected):
    assert tallies.bounds(value) == pytest.approx(expected)


def test_a_histogram_has_its_threshold_and_what_it_drops(contents):
    found = {one.measure: one for one in tallies.histograms(contents)["en"]}

    assert (found["num_units"].least, found["num_units"].most) == (10, None)
    assert found["num_units"].num_dropped == 60
    bars = found["num_units"].bars
    assert (sum(bar.documents for bar in bars), sum(bar.kept for bar in bars)) == (100, 40)
    (similar,) = tallies.histograms(contents)["zh"]
    assert (similar.most, similar.num_dropped) == (0.8, 5)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 0.1, [0, 0.05, 0.1]),
        (0.8, 1, [0.8, 0.85, 0.9, 0.95, 1]),
        (1, 100_000, [1, 10, 100, 1000, 10_000, 100_000]),
        (2, 30, [2, 5, 10, 20]),
        (0.995, 10, [1, 2, 5, 10]),
        (0, 100, [0, 0.5, 1, 10, 100]),
    ],
)
def test_ticks_are_round_and_do_not_touch(low, high, expected):
    assert tallies.ticks(low, high) == expected


def test_what_is_always_zero_is_no_whole_axis():
    zeros = tallies.Histogram("en", "x", [tallies.Bar(0, 0.005, 9, 9)], None, 0, 0)

    assert tallies.domain(zeros) == (0, 0.05)


def test_a_source_that_loses_most_is_told(contents, capsys):
    found = {
        one.name: one.loses_most
        for one in tallies.shares(ledger.of_rows(contents["ledger"]), "source")
    }

    assert found == {"web": True, "书": False, MARKUP: True}
    curate._print_losses(contents)
    said = capsys.readouterr().out
    assert "inputs.web keeps 44 of 104 documents alone, " in said and "inputs.书" not in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("not_an_object", "not_an_object"),
        ("a|b\nc", r"a\|b c"),
        ("<b>_x_</b>`*", r"\<b\>\_x\_\</b\>\`\*"),
        ("\u202e", r"\\u202e"),
    ],
)
def test_text_of_others_stays_in_its_cell_of_the_card(text, expected):
    assert markdown.cell(text) == expected


def test_pictures_show_every_language_measure_and_threshold(workdir, contents):
    figure = pictures.measures(tallies.histograms(contents))

    drawn = {axes.get_title(): axes for axes in figure.axes if axes.axison}
    assert drawn.keys() == {"num_units", "similarity"}
    for axes, threshold in zip(drawn.values(), (tallies.place(10), 0.8), strict=True):
        lines = [line.get_xdata() for line in axes.lines]
        assert [threshold, threshold] in [list(x) for x in lines] and len(axes.patches) == 1
    for name in ("waterfall.png", "measures.png"):
        assert (workdir / name).read_bytes().startswith(b"\x89PNG")


def test_bars_of_a_picture_add_up_to_the_ledger(contents):
    figure = pictures.waterfall(ledger.of_rows(contents["ledger"]), tallies.stages(contents))

    for axes, field in zip(figure.axes, ("documents", "num_bytes"), strict=True):
        widths = {}
        for bar in axes.patches:
            row = round(bar.get_y() + bar.get_height() / 2)
            widths[row] = widths.get(row, 0) + bar.get_width()
        read, *taken, kept = widths.values()
        assert read == sum(row[field] for row in contents["ledger"]) == kept + sum(taken)
        assert kept == sum(row[field] for row in contents["ledger"] if not row["stage"])


def test_names_in_pictures_need_no_font():
    assert pictures.label("书 zh") == "\\u4e66 zh"


def test_the_card_has_the_numbers_of_the_ledger(contents):
    made = [
        inputs.Input(name, "jsonl", "", "text", 10**6, None, licence, (), 0)
        for name, licence in (("web", "CC0-1.0"), ("书", ""))
    ]

    text = card.card(contents | {"items": ITEMS}, made, "seed: 1")

    rows = contents["ledger"]
    for name, licence, field in (("web", "CC0-1.0", "source"), ("书", "not stated", "source")):
        of = [row for row in rows if row[field] == name]
        kept = [row for row in of if not row["stage"]]
        counts = [sum(row[n] for row in x) for n in ("documents", "num_bytes") for x in (of, kept)]
        cells = " | ".join(f"{count:,}" for count in counts)
        assert f"| {name} | jsonl | {licence} | {cells} |" in text
    assert "| zh | 35 | 30 | " in text and "| 书, 100.0 % |" in text
    assert text.index("| quality | num_units_low | 60 |") < text.index("| duplicates | near_")
    assert "licence of 书" in text and "licence of web" not in text
    assert "3 documents, 261 bytes, could not be read" in text
    assert "3 items of evaluations were not looked for" in text


ITEMS = {"searched": 5, "not_searched": {"too_short": ["a:1", f"{MARKUP}:2"], "common": ["b:7"]}}


def test_items_that_were_not_looked_for_are_named(contents):
    text = report.page(contents | {"items": ITEMS})

    assert "a:1, &lt;/blockquote&gt;" in text and "common: <bdi>b:7</bdi>" in text
    assert not {"script", "img", "b"} & set(Page(text).tags)
    assert 'id="items"' not in report.page(contents)
