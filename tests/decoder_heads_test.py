"""Decoders that label texts, to and from `transformers`, whatever stands behind a text."""

import itertools
import json

import pytest
import torch
import transformers as t

from configs import classify
from configs import convert as convert_config
from configs import predict as predict_config
from experiments import convert, finetune, predict
from lm.errors import UserError
from lm.loading import task_model
from tests.generate_test import V, make_folder

TEXTS = ["the thing", "北京是", "  in the", "x", "He said: the\tthing", "the " * 70]
SIZES = {
    "gpt2": (
        t.GPT2ForSequenceClassification,
        t.GPT2Config,
        dict(vocab_size=V, n_positions=64, n_embd=16, n_layer=1, n_head=2),
    ),
    "llama": (
        t.LlamaForSequenceClassification,
        t.LlamaConfig,
        dict(
            vocab_size=V,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
        ),
    ),
}
LABELS = {0: "bad", 1: "good", 2: "so so"}


def named(folder, **settings):
    """Changes what tokenizer_config.json says."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def make_classifier(folder, architecture, around, pad_id=446):
    """One of `transformers`; 446 is <|turn|>, and 445 <|end|>."""
    make_folder(folder, "gpt2", around, "<|first|>", architecture)
    named(folder, model_max_length=64)
    make, make_config, sizes = SIZES[architecture]
    torch.manual_seed(0)
    model = make(make_config(**sizes, id2label=LABELS, pad_token_id=pad_id))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.eval().save_pretrained(folder)
    return folder


def move(source, target):
    config = convert_config.get_config()
    config.update(source=str(source), target=str(target))
    assert convert.run(config, None) == 0
    return target


def predicted(checkpoint, pairs, capfd):
    records = [{"text": a} | ({"pair": b} if b else {}) for a, b in pairs]
    path = checkpoint.parent / "new.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = predict_config.get_config()
    config.update(checkpoint=str(checkpoint), input=str(path))
    config.data.truncate = True
    if pairs[0][1]:
        config.task.pair = "pair"
    capfd.readouterr()
    assert predict.run(config, None) == 0
    lines = map(json.loads, capfd.readouterr().out.splitlines())
    return [line["prediction"]["probabilities"] for line in lines]


def predicted_there(folder, pairs, batch_size=1):
    pipeline = t.pipeline("text-classification", str(folder), top_k=None, device="cpu")
    asked = [dict(text=a, text_pair=b) if b else a for a, b in pairs]
    settings = dict(truncation=True, batch_size=batch_size)
    found = (
        [pipeline(each, truncation=True) for each in asked]
        if pairs[0][1]
        else pipeline(asked, **settings)
    )
    return [{each["label"]: each["score"] for each in of_text} for of_text in found]


def assert_same(found, expected):
    for mine, their in zip(found, expected, strict=True):
        assert mine == pytest.approx(their, abs=2e-6)
    assert len({round(each["good"], 3) for each in found}) > 2


@pytest.mark.parametrize(
    ("architecture", "around"),
    [("gpt2", "$A"), ("llama", "<|first|> $A"), ("llama", "<|first|> $A <|end|>")],
)
def test_a_head_of_transformers_reads_here_what_it_reads_there(
    architecture, around, tmp_path, capfd
):
    folder = make_classifier(tmp_path / "hf", architecture, around)
    alone = [(text, "") for text in TEXTS]
    pairs = list(itertools.pairwise(TEXTS[:5]))
    expected = predicted_there(folder, alone, batch_size=3), predicted_there(folder, pairs)

    run = move(folder, tmp_path / "run")
    back = move(run, tmp_path / "back")

    said, kind = capfd.readouterr().out, {"gpt2": "GPT2", "llama": "Llama"}[architecture]
    assert f"{folder} -> {run}: a run at step 0\n" in said
    assert f"{run} -> {back}: {kind}ForSequenceClassification of step 0\n" in said
    for checkpoint in (folder, run):
        assert_same(predicted(checkpoint, alone, capfd), expected[0])
    assert_same(predicted(run, pairs, capfd), expected[1])
    assert_same(predicted_there(back, alone), expected[0])
    assert_same(predicted_there(back, pairs), expected[1])


def test_a_head_that_is_trained_on_goes_on_with_what_it_reads(tmp_path):
    folder = make_classifier(tmp_path / "hf", "gpt2", "$A")
    tokenizer = t.AutoTokenizer.from_pretrained(folder)
    run = move(folder, tmp_path / "run")
    for source in (folder, run):
        _, data = finetune.read(training(source, tmp_path))

        for record, example in zip(data.train.records, data.train.examples, strict=True):
            assert example["tokens_BL"].tolist() == tokenizer(record.fields["text"]).input_ids
        data.tokenizer.save(tmp_path / "saved")
        assert (tmp_path / "saved" / "kind.txt").read_text() == "transformers, of a task\n"


def test_an_end_that_counts_as_padding_there_is_refused(tmp_path):
    folder = make_classifier(tmp_path / "hf", "llama", "$A <|end|>", pad_id=445)

    with pytest.raises(UserError, match=r"ends each text with <\|end\|>, which") as caught:
        task_model.load(folder)
    assert "\n" not in str(caught.value)


def training(source, folder):
    rows = [{"text": f"{text} {i}", "label": LABELS[i % 3]} for i in range(6) for text in TEXTS[:4]]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = classify.get_config("optimizer=adamw")
    config.init_from = str(source)
    config.data.update(train=str(folder / "data.jsonl"), seq_len=64, batch_size=8)
    config.data.validation_share = 0.3
    config.train.update(num_steps=2, num_epochs=0.0)
    config.optimizer.peak_lr = 0.1
    config.model.dropout = 0.0
    config.eval.update(every_steps=2, batch_size=8)
    config.checkpoint.update(every_steps=2)
    return config.lock()


@pytest.mark.parametrize(
    ("architecture", "pad"), [("gpt2", None), ("gpt2", "<|end|>"), ("llama", "<|turn|>")]
)
def test_a_head_that_was_trained_here_reads_there_what_it_reads_here(
    architecture, pad, tmp_path, capfd
):
    base = make_folder(tmp_path / "base", "gpt2", "$A", "<|first|>", architecture)
    named(base, pad_token=pad)
    assert finetune.run(training(base, tmp_path), tmp_path / "run") == 0
    alone = [(text, "") for text in TEXTS]
    ours = predicted(tmp_path / "run", alone, capfd)

    folder = move(tmp_path / "run", tmp_path / "back")

    assert ("it reads one text at a time" in capfd.readouterr().out) == (pad == "<|end|>")
    has_pad = pad == "<|turn|>"
    assert_same(ours, predicted_there(folder, alone, batch_size=3 if has_pad else 1))
    if not has_pad:
        with pytest.raises(ValueError, match="without pad_token"):
            predicted_there(folder, alone, batch_size=3)
