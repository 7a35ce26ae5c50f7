import gzip
import json

import pytest

from lm.data import builtin
from lm.data.records import Record, hold_out, read_records, readable, take
from lm.errors import UserError
from lm.formats.fields import texts_of
from lm.tasks.text import text_field


def read(path, on_error="raise"):
    skipped = []
    source = read_records("files", split="train", spec=str(path))
    return list(readable(source, on_error, skipped)), skipped


def fields(path):
    return [record.fields for record in read(path)[0]]


CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

北京 NR B-NP B-LOC
"""
CONLLU = """# text = im Haus.
1-2\tim\t_\t_\t_\t_\t_\t_\t_\t_
1\tin\tin\tADP\tAPPR\t_\t3\tcase\t_\t_
2\tdem\tder\tDET\tART\t_\t3\tdet\t_\t_
2.1\tx\t_\t_\t_\t_\t_\t_\t_\t_
3\tHaus\tHaus\tNOUN\tNN\t_\t0\troot\t_\tSpaceAfter=No
4\t.\t.\tPUNCT\t$.\t_\t3\tpunct\t_\t_

1\t是\t是\tVERB\tVC\t_\t0\troot\t_\t_
"""


def test_json_lines_and_their_packed_form(tmp_path):
    records = [{"text": "你好 👋🏽", "label": 1}, {"text": "مرحبا", "label": 0}]
    text = "\ufeff" + json.dumps(records[0]) + "\n\n" + json.dumps(records[1]) + "\r\n"
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text.encode()))

    assert fields(tmp_path / "a.jsonl") == fields(tmp_path / "b.jsonl.gz") == records
    assert [r.name for r in read(tmp_path / "a.jsonl")[0]] == [
        f"{tmp_path}/a.jsonl:{n}" for n in (1, 3)
    ]


def test_tables_with_their_quotes_and_lines(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\n"sagte ""ja"",\nund ging",1\n彼は言った,0\n')
    (tmp_path / "b.tsv").write_text('text\tlabel\nsagte "ja\t1\n')

    assert fields(tmp_path / "a.csv") == [
        {"text": 'sagte "ja",\nund ging', "label": "1"},
        {"text": "彼は言った", "label": "0"},
    ]
    assert [r.name[-2:] for r in read(tmp_path / "a.csv")[0]] == [":2", ":4"]
    assert fields(tmp_path / "b.tsv") == [{"text": 'sagte "ja', "label": "1"}]


def test_columns_of_conll(tmp_path):
    (tmp_path / "a.conll").write_text(CONLL)

    assert fields(tmp_path / "a.conll") == [
        dict(
            tokens=["EU", "rejects"],
            tags=["B-ORG", "O"],
            pos=["NNP", "VBZ"],
            chunk=["B-NP", "B-VP"],
        ),
        dict(tokens=["北京"], tags=["B-LOC"], pos=["NR"], chunk=["B-NP"]),
    ]


def test_words_of_conllu_without_ranges_and_empty_nodes(tmp_path):
    (tmp_path / "a.conllu").write_text(CONLLU)

    assert fields(tmp_path / "a.conllu") == [
        dict(
            tokens=["in", "dem", "Haus", "."],
            tags=["ADP", "DET", "NOUN", "PUNCT"],
            xpos=["APPR", "ART", "NN", "$."],
            space_before=[False, True, True, False],
        ),
        dict(tokens=["是"], tags=["VERB"], xpos=["VC"], space_before=[False]),
    ]


def test_questions_of_squad(tmp_path):
    answers = [{"text": "红", "answer_start": 2}]
    qas = [
        {"id": 7, "question": "颜色?", "answers": answers},
        {"id": "x", "question": "?", "answers": [], "is_impossible": True},
    ]
    tree = {"data": [{"title": "t", "paragraphs": [{"context": "它是红的", "qas": qas}]}]}
    (tmp_path / "a.json").write_text(json.dumps(tree))

    first, second = fields(tmp_path / "a.json")
    assert first == {
        "id": "7",
        "title": "t",
        "context": "它是红的",
        "question": "颜色?",
        "answers": answers,
        "is_impossible": False,
    }
    assert second["is_impossible"] and second["answers"] == []


def test_errors_name_fields_of_any_length_and_kind_in_short():
    with pytest.raises(UserError, match=r"'text' is null, .*; there are 'text', 'kkk") as caught:
        text_field("a.jsonl:1", {"text": None, "k" * 100_000: 1} | dict.fromkeys("abc" * 9), "text")

    assert len(str(caught.value)) < 300


BAD = {
    "a.jsonl": ('{"a": 1}\n{"a": \n', ":2: not JSON"),
    "b.jsonl": ("[1]\n", ":1: holds a list"),
    "null.jsonl": ("null\n", ":1: holds null, not"),
    "c.csv": ("a,b\n1,2,3\n", ":2: 3 values under a header of 2"),
    "d.conll": ("EU B-ORG\nrejects\n", ":2: 1 columns"),
    "e.conllu": ("1\ta\n", ":1: not ten columns"),
    "f.json": ("{}", "neither a list"),
    "g.json": ('{"data": [{}]}', "not as in SQuAD"),
    "h.json": ("{", ":1: not JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_damaged_is_named_or_left_out(name, tmp_path):
    text, message = BAD[name]
    (tmp_path / name).write_text(text)

    with pytest.raises(UserError) as caught:
        read(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path}/{name}") and message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(read(tmp_path / name, "skip")[1]) == 1


def test_a_table_goes_on_behind_a_broken_line(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\na,1\n"b"x,1\nc,2\nd,3,4\ne,5\n')

    records, skipped = read(tmp_path / "a.csv", "skip")

    assert [(r.name[-2:], r.fields["text"]) for r in records] == [
        (":2", "a"),
        (":4", "c"),
        (":6", "e"),
    ]
    assert [str(error).split(":")[1] for error in skipped] == ["3", "5"]


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,label\na,1,2\n")

    with pytest.raises(UserError, match=r"a.csv:1: two columns are named 'label'"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "value", [r'"\ud83d half"', "1" * 5000], ids=["half a character", "a number"]
)
def test_json_that_cannot_be_used_is_named_or_left_out(value, tmp_path):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "\\ud83d\\ude00"}}\n{{"text": {value}}}\n')
    (tmp_path / "a.json").write_text(f'[{{"text": {value}}}]')

    with pytest.raises(UserError, match=r"a.jsonl:2: "):
        read(tmp_path / "a.jsonl")
    records, skipped = read(tmp_path / "a.jsonl", "skip")
    assert [record.fields for record in records] == [{"text": "😀"}]
    assert len(skipped) == 1
    with pytest.raises(UserError, match=r"a.json(\[0\])?: "):
        read(tmp_path / "a.json")


@pytest.mark.parametrize("first", ["x", "1-", "", "²", "9" * 5000, "1-" + "9" * 5000])
def test_a_word_of_conllu_without_its_number_is_named(first, tmp_path):
    row = "\tHaus\tHaus\tNOUN\tNN\t_\t0\troot\t_\t_\n"
    (tmp_path / "a.conllu").write_text(f"1{row}{first}{row}\n1{row}")

    records, skipped = read(tmp_path / "a.conllu", "skip")

    assert [record.fields["tokens"] for record in records] == [["Haus"]]
    assert "a.conllu:2: the first column" in str(skipped[0])


@pytest.mark.parametrize("name", ["a.conll", "a.conllu"])
def test_a_sentence_with_a_bad_line_is_left_out_whole(name, tmp_path):
    row = b"%d\t%s\t_\tNOUN\t_\t_\t0\t_\t_\t_\n" if name.endswith("u") else b"\xc2\xb2%d%s B-X\n"
    line = lambda word: row.replace(b"%d", b"1").replace(b"%s", word)
    sentences = [[b"a", b"\xe9", b"b"], [b"c", b"d"], [b"\xe9"], [b"e"]]
    (tmp_path / name).write_bytes(b"\n".join(b"".join(map(line, each)) for each in sentences))

    records, skipped = read(tmp_path / name, "skip")

    words = [[token.strip("²1") for token in record.fields["tokens"]] for record in records]
    assert words == [["c", "d"], ["e"]]
    assert len(skipped) == 2


def test_a_question_that_is_none_leaves_its_article_alone(tmp_path):
    question = {"id": "a", "question": "?", "answers": []}
    qas = [question, {"question": "?"}, question]
    paragraphs = [{"context": "x", "qas": qas}, {"qas": qas}, {"context": "y", "qas": qas[:1]}]
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}, "z"]}))

    records, skipped = read(tmp_path / "a.json", "skip")

    assert [record.fields["context"] for record in records] == ["x", "x", "y"]
    places = [str(error).split(": ")[1].split(" ")[0] for error in skipped]
    assert places == ["data[0].paragraphs[0].qas[1]", "data[0].paragraphs[1]", "data[1]"]


@pytest.mark.parametrize("word", ["10\u00a0000", "\u3000", "a\u2009b"])
def test_spaces_of_unicode_are_parts_of_words(word, tmp_path):
    (tmp_path / "a.conll").write_text(f"{word}\tO\nEU B-ORG\n")

    assert fields(tmp_path / "a.conll") == [dict(tokens=[word, "EU"], tags=["O", "B-ORG"])]


def test_a_line_with_too_many_columns_says_how_many(tmp_path):
    (tmp_path / "a.conll").write_text("EU B-ORG\nund so O\n")

    with pytest.raises(UserError, match=r"a.conll:2: 3 columns"):
        read(tmp_path / "a.conll")


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": "\xe9"}\n')

    with pytest.raises(UserError, match=r"a\.jsonl:2: byte 0xe9 at offset 16"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("source", "spec", "message"),
    [
        ("files", "no/*.jsonl", "matches no file"),
        ("files", "README.md", "format .md is unknown"),
        ("folder", "x", "source='folder' is unknown"),
        ("python_stdlib:x", "", "python_stdlib:docstrings"),
        ("modular_addition", "x", "data.train='x' must be the modulus, 2 to 94"),
        ("modular_addition", "95", "data.train='95' must be the modulus, 2 to 94"),
    ],
)
def test_sources_that_are_none_are_refused(source, spec, message):
    with pytest.raises(UserError, match=message):
        read_records(source, split="train", spec=spec)


def test_each_sum_is_right():
    found = read_records("modular_addition", split="train", spec="5").records()

    sums = [record.fields["text"] + record.fields["label"] for record in found]
    numbers = [[ord(character) - ord("!") for character in text] for text in sums]
    assert numbers == [[a, b, (a + b) % 5] for a in range(5) for b in range(5)]


def test_what_is_held_out_depends_on_the_record_alone():
    records = [Record(str(i), {"text": f"文 {i % 300}"}) for i in range(600)]

    train, held_out = hold_out(records, 0.2)

    assert len(train) + len(held_out) == 600 and 80 < len(held_out) < 160
    texts = [{r.fields["text"] for r in side} for side in (train, held_out)]
    assert not texts[0] & texts[1]
    assert sorted(hold_out(records[::-1], 0.2)[1]) == sorted(held_out)


def test_more_of_the_training_records_hold_the_fewer_ones():
    records = [Record(str(i), {"text": f"文 {i}"}) for i in range(50)]

    few, more = take(records, 10), take(records, 20)

    assert len(few) == 10 and len(more) == 20
    assert few == [record for record in records if record in few] != records[:10]
    assert all(record in more for record in few)
    with pytest.raises(UserError, match=r"data\.num_examples=51, and there are 50"):
        take(records, 51)


def test_a_record_is_read_for_all_its_texts():
    record = Record("x", {"a": "一", "n": 3, "t": ["b", "c"], "m": [{"role": "user"}], "e": []})

    assert texts_of(record) == ["一", "b c", "user", ""]


@pytest.fixture(scope="module", params=builtin.TASKS)
def items(request):
    return request.param, *(builtin.read(request.param, s) for s in ("train", "validation"))


def test_embedded_examples_are_enough_and_none_is_on_both_sides(items):
    task, train, validation = items

    assert len(train) > 1000 and len(validation) > 100
    names = [{name for name, _ in side} for side in (train, validation)]
    assert not names[0] & names[1]
    if task in ("docstrings", "snippets"):
        labels = [{fields["label"] for _, fields in side} for side in (train, validation)]
        assert labels[0] == labels[1] and len(labels[0]) == 8
        texts = [{fields["text"] for _, fields in side} for side in (train, validation)]
        assert not texts[0] & texts[1]
    if task == "snippets":
        assert len(train) > 5000
    if task == "token_roles":
        assert all(
            len({len(f[key]) for key in ("tokens", "tags", "space_before")}) == 1 for _, f in train
        )
    if task == "questions":
        for _, f in validation:
            (answer,) = f["answers"]
            start = answer["answer_start"]
            assert f["context"][start : start + len(answer["text"])] == answer["text"]
