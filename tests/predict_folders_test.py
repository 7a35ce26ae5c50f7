"""New text, through folders of `transformers` with the head of a task: what its pipelines say."""

import itertools
import json
import types

import numpy as np
import pytest
import tokenizers
import torch
import transformers as t

from configs import predict as predict_config
from experiments import predict
from lm.errors import UserError

TEXTS = [
    "Anna Müller flew from Köln to 北京!",
    "really-good film, isn't it?",
    "我们在上海和Anna见面。",
    "x",
    "ANNA's  (very)\tlong___text… 100€ + 3 = 5",
    "wunderbar " * 40,
]
SIZES = dict(
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
)
LABELS = {0: "差", 1: "good", 2: "so so"}
TAGS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    words = tokenizers.BertWordPieceTokenizer(lowercase=False)
    words.train_from_iterator(TEXTS * 3, vocab_size=220, min_frequency=1, show_progress=False)
    words.save_model(str(folder))
    return folder / "vocab.txt"


def save(make, vocabulary, folder, max_len=32, **config):
    tokenizer = t.BertTokenizerFast(str(vocabulary), do_lower_case=False, model_max_length=max_len)
    torch.manual_seed(0)
    model = make(
        t.BertConfig(
            vocab_size=len(tokenizer), **SIZES | {"max_position_embeddings": max_len}, **config
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def predicted(folder, tmp_path, capfd):
    config = predict_config.get_config()
    (tmp_path / "new.txt").write_text("\n".join(TEXTS))
    config.update(checkpoint=folder, input=str(tmp_path / "new.txt"))
    config.data.batch_size = 8
    assert predict.run(config, None) == 0
    return [json.loads(line)["prediction"] for line in capfd.readouterr().out.splitlines()]


def test_pairs_in_fields_of_any_name_are_read_as_the_pipeline_reads_them(
    vocabulary, tmp_path, capfd
):
    folder = save(t.BertForSequenceClassification, vocabulary, tmp_path, id2label=LABELS)
    pipeline = t.pipeline("text-classification", folder, top_k=None, device="cpu")
    pairs = [dict(first=a, second=b) for a, b in itertools.pairwise(TEXTS[:5])]
    (tmp_path / "new.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    config = predict_config.get_config()
    config.update(checkpoint=folder, input=str(tmp_path / "new.jsonl"))
    config.task.update(text="first", pair="second")
    config.data.batch_size = 8

    assert predict.run(config, None) == 0

    theirs = pipeline([dict(text=p["first"], text_pair=p["second"]) for p in pairs])
    lines = capfd.readouterr().out.splitlines()
    for line, their in zip(lines, theirs, strict=True):
        probabilities = {each["label"]: each["score"] for each in their}
        found = json.loads(line)["prediction"]["probabilities"]
        assert found == pytest.approx(probabilities, abs=2e-6)


@pytest.mark.parametrize("kind", ["single_label_classification", "multi_label_classification"])
def test_labels_have_the_probabilities_of_the_pipeline(kind, vocabulary, tmp_path, capfd):
    folder = save(
        t.BertForSequenceClassification, vocabulary, tmp_path, id2label=LABELS, problem_type=kind
    )
    pipeline = t.pipeline("text-classification", folder, top_k=None, device="cpu")

    ours, theirs = predicted(folder, tmp_path, capfd), pipeline(TEXTS, truncation=True)

    for mine, their in zip(ours, theirs, strict=True):
        probabilities = {each["label"]: each["score"] for each in their}
        assert mine["probabilities"] == pytest.approx(probabilities, abs=2e-6)
        if kind.startswith("single"):
            assert mine["label"] == their[0]["label"]
        else:
            assert mine["labels"] == [name for name in LABELS.values() if probabilities[name] > 0.5]


def test_a_number_is_that_of_the_pipeline(vocabulary, tmp_path, capfd):
    folder = save(t.BertForSequenceClassification, vocabulary, tmp_path, num_labels=1)
    pipeline = t.pipeline("text-classification", folder, device="cpu")

    ours = predicted(folder, tmp_path, capfd)

    theirs = pipeline(TEXTS, truncation=True, function_to_apply="none")
    values = [each["score"] for each in theirs]
    np.testing.assert_allclose([each["value"] for each in ours], values, atol=1e-5)
    assert np.ptp(values) > 0.1


def test_entities_are_those_of_the_pipeline_by_first_pieces(vocabulary, tmp_path, capfd):
    folder = save(t.BertForTokenClassification, vocabulary, tmp_path, id2label=TAGS)
    pipeline = t.pipeline(
        "token-classification", folder, aggregation_strategy="first", device="cpu"
    )

    ours, theirs = predicted(folder, tmp_path, capfd), pipeline(TEXTS)

    shown = lambda e: (e["start"], e["end"])
    assert sum(map(len, theirs)) > 8
    for text, mine, their in zip(TEXTS, ours, theirs, strict=True):
        assert [(e["type"], *shown(e)) for e in mine["entities"]] == [
            (e["entity_group"], *shown(e)) for e in their
        ]
        for e, reference in zip(mine["entities"], their, strict=True):
            assert e["probability"] == pytest.approx(reference["score"], abs=2e-6)
        words = [text[start:end] for start, end in mine["offsets"]]
        assert words == mine["tokens"] and len(words) == len(mine["tags"])


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ('a:1: x; mend the line, or set data.on_error="skip"', "a:1: x; mend the line"),
        (
            'a:1: x; raise y, or set data.on_error="skip" to go without the rest, too',
            "a:1: x; raise y",
        ),
        ("a:1: x; mend it, or set data.on_error=skip", "a:1: x; mend it"),
        ("a:1: x; lower y", "a:1: x; lower y"),
    ],
)
def test_an_error_that_was_skipped_does_not_say_how_to(said, left):
    counts = {"bad": 0}
    each = types.SimpleNamespace(record=UserError(said), prediction=UserError(said))

    assert json.loads(predict._line(each, "skip", counts)) == {"error": left}
    with pytest.raises(UserError, match="on_error"):
        predict._line(each, "raise", counts)
