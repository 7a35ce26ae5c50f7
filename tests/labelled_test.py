"""What fine-tuning says of labelled data before it trains on it."""

import csv
import gzip
import json
import re

import pytest
import transformers

from configs import answer, classify, seq2seq, tag
from experiments import finetune
from experiments.wiring import task_data
from lm.corpus import documents
from lm.errors import UserError
from lm.loading import task_model
from lm.metrics import bleu_rouge
from lm.tasks import text as text_lib


def write(path, rows):
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([rows[0].keys(), *(row.values() for row in rows)])
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(recipe, arg, train, validation, **changes):
    config = recipe.get_config(f"model=bert,tokenizer=bytes{arg}")
    config.data.update(train=train, validation=validation, seq_len=64)
    config.update_from_flattened_dict(changes)
    return finetune.read(config)[1]


def texts(*pairs):
    return [{"text": text, "label": label} for text, label in pairs]


@pytest.fixture
def both(tmp_path):
    """Writes both splits and reads them by a recipe."""

    def read_both(train, validation, recipe=classify, arg="", suffix=".jsonl", **changes):
        paths = (
            write(tmp_path / f"{name}{suffix}", rows)
            for name, rows in (("train", train), ("validation", validation))
        )
        return read(recipe, arg, *paths, **changes)

    return read_both


GOOD = texts(("a", "pos"), ("b", "neg"), ("c", "pos"))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_labels_that_differ_in_spaces_or_composition_are_one(both, suffix):
    odd = texts(("a", " pos"), ("b", "caf\u00e9"), ("c", "pos\t"), ("d", "cafe\u0301 "))
    data = both(odd, texts(("x", "pos "), ("y", "café")), suffix=suffix)

    assert data.block["labels"] == ("café", "pos")
    assert [int(e["label_B"]) for e in data.train.examples] == [1, 0, 1, 0]
    assert [data.task.gold(r)["label"] for r in data.validation.records] == ["pos", "café"]
    assert data.warnings == []


WARNINGS = {
    "case": (texts(("a", "Pos"), ("b", "pos")), texts(("c", "pos"), ("d", "Pos")), "nearly equal"),
    "no validation": (GOOD, texts(("x", "neg")), "no validation example has the label pos"),
    "the same": (GOOD, texts(("a", "pos"), ("x", "neg")), r"1 of 2 validation examples \(50.00%\)"),
    "other labels": (GOOD, texts(("a", "neg"), ("b", "pos")), r"2 of 2 validation examples"),
}


@pytest.mark.parametrize("what", WARNINGS)
def test_what_must_be_known_of_the_data_is_said(both, what):
    train, validation, says = WARNINGS[what]
    (line,) = [line for line in both(train, validation).warnings if "label" in line or "of" in line]
    assert re.search(says, line)


RECIPES = {
    classify: dict(text="x z", label="pos"),
    tag: dict(tokens=["x", "z"], tags=["O", "O"]),
    seq2seq: dict(source="x", target="z"),
    answer: dict(id="1", context="x z", question="x", answers=[dict(text="x", answer_start=0)]),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_tokens_of_what_the_tokenizer_does_not_know_are_said_of_every_task(tmp_path, recipe):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "x", "y"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    row = RECIPES[recipe]
    last = dict(label="neg") if recipe is classify else {}
    path = write(tmp_path / "a.jsonl", [row, json.loads(json.dumps(row).replace("z", "y")) | last])
    config = recipe.get_config(f"model={'t5' if recipe is seq2seq else 'bert'},tokenizer=bytes")
    config.data.update(train=path, validation=path, seq_len=128)
    config.tokenizer = dict(kind="file", path=str(tmp_path / "vocab.txt"))

    _, data = finetune.read(config)

    (line,) = [line for line in data.warnings if "does not know" in line]
    assert re.fullmatch(r"2 of \d\d tokens stand for what the tokenizer does not know", line)


@pytest.mark.parametrize("starts", ["BILU", "BMES", "BIES"])
def test_a_tagger_of_transformers_is_gone_on_with_in_any_spelling(tmp_path, starts):
    names = ["O", *(f"{start}-X" for start in starts)]
    folder = tmp_path / "tagger"
    sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    settings = transformers.BertConfig(**sizes, vocab_size=300, id2label=dict(enumerate(names)))
    transformers.BertForTokenClassification(settings).save_pretrained(folder)
    block = task_model.imported_config(folder)["task"]
    assert block["labels"] == tuple(names) and block["scheme"] == "BIOES"

    rows = [dict(tokens=["a", "b"], tags=[f"{starts[0]}-X", f"{starts[2]}-X"])]
    path = write(tmp_path / "a.jsonl", rows)
    config = tag.get_config("model=bert,tokenizer=bytes")
    config.init_from, config.task.scheme = str(folder), "BIOES"
    config.data.update(train=path, validation=path, seq_len=64)
    blocks = config.task, config.data, config.model, config.tokenizer
    data = task_data.read(*blocks, config.init_from)
    assert data.block["labels"] == tuple(names)
    assert [e["tags_BW"].tolist() for e in data.train.examples] == [[1, 3]]


def test_an_id_does_not_hide_that_a_text_is_known(both):
    rows = [row | {"id": i} for i, row in enumerate(GOOD)]
    (line,) = both(rows, [rows[0] | {"id": 9}, rows[1] | {"id": 8}, *texts(("z", "pos"))]).warnings
    assert line.startswith("2 of 3 validation examples")


def test_labels_that_a_config_names_and_training_lacks_are_said(both):
    validation = texts(("x", "neg"), ("y", "pos"))
    data = both(GOOD, validation, **{"task.labels": ("neg", "pos", "other")})
    assert data.warnings == [
        "no training example has the label other",
        "no validation example has the label other",
    ]
    with pytest.raises(UserError, match=r"has 'pos' twice"):
        both(GOOD, validation, **{"task.labels": ("pos", "neg", "pos ")})


MULTI = {
    "lists": [["x", "y"], ["x"], []],
    "text": ["['x', 'y']", '["x"]', "[]"],
    "rows": [[1, 1], [1, 0], [0, 0]],
    "rows as text": ["[1, 1]", "[1, 0]", "[0, 0]"],
}


@pytest.mark.parametrize("spelling", MULTI)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_several_labels_mean_the_same_in_each_spelling(both, spelling, suffix):
    rows = texts(*zip("abc", MULTI[spelling], strict=True))
    changes = {"task.labels": ("x", "y")} if "rows" in spelling else {}
    data = both(rows, rows[:1], arg=",kind=multi", suffix=suffix, **changes)
    assert data.block["labels"] == ("x", "y")
    assert [e["labels_BS"].tolist() for e in data.train.examples] == [[1, 1], [1, 0], [0, 0]]


def test_columns_of_0_and_1_are_labels_by_their_names(both):
    rows = [{"text": t, "x": x, "y": y} for t, x, y in (("a", 1, 1), ("b", 1, 0), ("c", 0, 0))]
    changes = {"task.labels": ("x", "y"), "task.class_weights": "balanced"}
    data = both(rows, rows, arg=",kind=multi", suffix=".csv", **changes)
    assert [e["labels_BS"].tolist() for e in data.train.examples] == [[1, 1], [1, 0], [0, 0]]
    assert data.block["class_weights"] == "0.75,1.5"


@pytest.mark.parametrize(
    "label", [["x,y", "x", "y"], [[0, 1], [1, 1], [1, 0]], ["0 1", "1 1", "1 0"]]
)
def test_what_may_be_several_labels_is_refused_with_a_hint(both, label):
    rows = texts(*zip("abc", label, strict=False))
    with pytest.raises(UserError, match=r"write a list of them|name the labels in their order"):
        both(rows, rows, arg=",kind=multi")


NUMBERS = texts(("a", 1), ("b", 2.5))


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("values", [[3, 3, 3.0], ["4"], [0, -0.0]])
def test_regression_on_one_number_alone_is_refused(both, split, values):
    constant = texts(*((f"t{i}", value) for i, value in enumerate(values)))
    splits = dict(train=NUMBERS, validation=NUMBERS) | {split: constant}
    with pytest.raises(UserError, match=rf"data\.{split}: task\.label='label' is .* in all of the"):
        both(**splits, arg=",kind=regression")
    assert both(NUMBERS, NUMBERS, arg=",kind=regression").train.records


def test_answers_that_cannot_be_found_are_counted(both):
    context = "word " * 30 + "a needle of many letters " + "word " * 30
    question = lambda text: {
        "id": text,
        "question": "q",
        "context": context,
        "answers": [{"text": text, "answer_start": context.index(text)}],
    }
    rows = [
        question(text) for text in ("needle", "a needle of many", "many letters " + "word " * 12)
    ]
    settings = {"task.stride": 8, "task.max_answer_len": 10}
    notes = both(rows, rows[:1], recipe=answer, **settings).task.notes
    assert notes["answers that no window holds"] == 1
    assert notes["answers longer than task.max_answer_len"] == 2


def test_fields_inside_others_are_named_by_a_path(both):
    rows = [
        {"meta": {"text": t, "label": label, "words": [t], "tags": [tag]}, "turns": [{"text": t}]}
        for t, label, tag in (("a", "x", "B-A"), ("b", "y", "O"))
    ]
    changes = {"task.text": "turns.0.text", "task.pair": "meta.text", "task.label": "meta.label"}
    assert both(rows, rows, **changes).block["labels"] == ("x", "y")
    changes = {"task.tokens": "meta.words", "task.tags": "meta.tags"}
    assert both(rows, rows, recipe=tag, **changes).block["labels"] == ("O", "B-A")
    with pytest.raises(UserError, match=r"'meta\.nope' is missing, .* there are 'meta', 'turns'"):
        both(rows, rows, **{"task.text": "meta.nope", "task.label": "meta.label"})


def test_the_rest_of_a_file_that_is_cut_is_no_one_record(both, tmp_path):
    rows = texts(*((f"{i} {i * 7919 % 977}", "xy"[i % 2]) for i in range(5000)))
    packed = gzip.compress(
        json.dumps(rows[0]).encode()
        + b"\n"
        + "".join(json.dumps(row) + "\n" for row in rows).encode()
    )
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    validation = write(tmp_path / "v.jsonl", texts(("new", "x"), ("newer", "y")))
    data = read(
        classify, "", str(tmp_path / "cut.jsonl.gz"), validation, **{"data.on_error": "skip"}
    )
    (line,) = data.warnings
    assert f"behind its first {len(data.train.records):,} records" in line


REFERENCES = [["a red house", "the house is red"], "two cats", ["three"]]
WRITTEN = ["the house is red", "two cats sat", "three dogs ran"]


@pytest.mark.parametrize("scorer", ["translation", "summarization"])
def test_several_targets_are_references_of_equal_worth(both, scorer):
    rows = [{"source": str(i), "target": target} for i, target in enumerate(REFERENCES)]
    changes = {"task.scorer": scorer, "task.target_len": 32}
    data = both(rows, rows, recipe=_T5, **changes)

    predictions = [{"text": text} for text in WRITTEN]
    scores = data.task.score(data.validation.records, predictions)

    assert tuple(scores) == data.task.metrics

    references = [[r] if isinstance(r, str) else r for r in REFERENCES]
    if scorer == "translation":
        import sacrebleu

        streams = [[r[i] if i < len(r) else None for r in references] for i in range(2)]
        assert scores["bleu"] == sacrebleu.corpus_bleu(WRITTEN, streams).score
        assert scores["chrf"] == sacrebleu.corpus_chrf(WRITTEN, streams).score
    else:
        assert scores == bleu_rouge.rouge(WRITTEN, references)
    firsts = [r[0] for r in references]
    learned = [data.tokenizer.decode(e["targets_BL"]) for e in data.train.examples]
    assert learned == firsts
    assert data.task.gold(data.validation.records[0])["text"] == REFERENCES[0]


class _T5:
    """The recipe with a model that writes."""

    @staticmethod
    def get_config(arg):
        return seq2seq.get_config(arg.replace("bert", "t5"))


@pytest.mark.parametrize("target", [[], [""], [1], ["a", None], None])
def test_targets_that_are_no_text_are_named(both, target):
    with pytest.raises(UserError, match=r"train\.jsonl:1"):
        rows = [{"source": "a", "target": target}]
        both(rows, [{"source": "a", "target": "b"}], recipe=_T5, **{"task.target_len": 32})


def test_the_limit_of_a_record_can_be_set_and_older_configs_have_none(both):
    rows = [*GOOD, *texts(("x" * 500, "pos"))]
    with pytest.raises(UserError, match=r"train\.jsonl:4: is longer than data\.max_document_bytes"):
        both(rows, GOOD, **{"data.max_document_bytes": 400})
    config = classify.get_config("model=bert,tokenizer=bytes")
    assert task_data.document_limit(config.data) == {"max_document_bytes": 1_000_000_000}
    del config.data.max_document_bytes
    assert task_data.document_limit(config.data) == {}


def test_a_long_text_is_tokenized_as_far_as_it_is_read(both, monkeypatch):
    rows = texts(("word " * 50, "pos"), ("other " * 50, "neg"))
    whole = both(rows, GOOD, **{"data.truncate": True})
    monkeypatch.setattr(documents, "LONG_CHARS", 100)
    monkeypatch.setattr(text_lib, "LONG_CHARS", 100)
    cut = both(rows, GOOD, **{"data.truncate": True})
    for one, other in zip(whole.train.examples, cut.train.examples, strict=True):
        assert one["tokens_BL"].tolist() == other["tokens_BL"].tolist()
    with pytest.raises(UserError, match=r"train\.jsonl:1: more than \d+ tokens do not fit data"):
        both(rows, GOOD)
