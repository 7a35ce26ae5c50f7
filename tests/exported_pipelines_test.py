"""Runs of every task that exports: `transformers` says of new text what the run here says."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers as t

from configs import convert as convert_config
from configs import families
from configs import generate as generate_config
from configs import predict as predict_config
from experiments import convert, finetune, generate, predict
from lm.chat import chat_template as chat_lib
from lm.chat import template_files
from lm.loading import task_model
from lm.models.factory import make_model
from lm.models.families import init_params
from lm.run import workdir
from lm.tokenizers import tokenizers
from lm.train.checkpoints import Checkpoints, write_numpy_as_it_is
from lm.train.step import TrainState
from tests.finetune_test import TINY, files, make_config  # noqa: F401

TEXTS = [
    "Anna Müller flew from Köln to 北京!",
    "really-good film, isn't it?",
    "我们在上海和Anna见面。",
    "x",
    "  A  (very)\tlong___text… 100€ + 3 = 5 ",
    "wunderbar " * 40,
]
SINGLE = "text-classification"


def random_params(params):
    """So large that an error shows; a head without a bias in `transformers` has none here."""
    rng = np.random.default_rng(0)
    noise = lambda x: np.asarray(x) + 0.3 * rng.standard_normal(x.shape).astype(np.float32)
    return jax.tree.map(noise, params)


def random_run(files, name, model, folder, **changes):  # noqa: F811
    """A run of a task that has learned nothing yet."""
    config = make_config(files, name)
    if model:
        config.model = families.small_models()[model]
        config.model.update({k: v for k, v in TINY.items() if k in config.model})
    config.update_from_flattened_dict(changes)
    config, data = finetune.read(config.lock())
    made = task_model.make_model(config, data.task)
    params = random_params(data.task.objective.init_params(made, jax.random.key(0)))
    if name in ("one label", "many labels", "a number") and config.model.name != "bert":
        params["head"]["bias"] *= 0
    host = {"num_tokens": 0, "frozen parameters": ""}
    run = write_run(folder / "run", config, {"params": params}, host)
    if name == "chats":
        template_files.write(run / "tokenizer", {"default": config.task.template})
    return run


def write_run(folder, config, params, host):
    write_numpy_as_it_is()
    with (
        workdir.opened(folder, config.to_dict(), data_hash=""),
        Checkpoints(folder / "checkpoints", keep_last=1) as checkpoints,
    ):
        tokenizers.ByteTokenizer().save(folder / "tokenizer")
        checkpoints.save(1, TrainState(np.int32(1), params, ()), host, {})
    return folder


def exported(run):
    config = convert_config.get_config()
    config.update(source=str(run), target=str(run.parent / "hf"))
    assert convert.run(config, None) == 0
    return str(run.parent / "hf")


def predicted(run, records, capfd, **settings):
    """The predictions of ours."""
    (run.parent / "new.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    config = predict_config.get_config()
    config.update(checkpoint=str(run), input=str(run.parent / "new.jsonl"))
    config.data.update(batch_size=8, truncate=True)
    config.update(settings)
    capfd.readouterr()
    assert predict.run(config, None) == 0
    return [json.loads(line)["prediction"] for line in capfd.readouterr().out.splitlines()]


def said_besides(run, capfd):
    """What is said of the same predictions on standard error."""
    config = predict_config.get_config()
    config.update(checkpoint=str(run), input=str(run.parent / "new.jsonl"), max_new_tokens=1)
    assert predict.run(config, None) == 0
    return capfd.readouterr().err


def by_label(theirs):
    return {each["label"]: each["score"] for each in theirs}


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("one label", "bert"),
        ("one label", "gpt2"),
        ("one label", "llama"),
        ("many labels", "gpt2"),
        ("a number", "bert"),
        ("a number", "llama"),
    ],
)
def test_labels_and_numbers_are_those_of_the_pipeline(name, model, files, tmp_path, capfd):  # noqa: F811
    run = random_run(files, name, model, tmp_path)
    pipeline = t.pipeline(SINGLE, exported(run), top_k=None, device="cpu")

    ours = predicted(run, [{"text": text} for text in TEXTS], capfd)
    theirs = pipeline(TEXTS, truncation=True, batch_size=4)

    if name == "a number":
        values = [each[0]["score"] for each in theirs]
        np.testing.assert_allclose([each["value"] for each in ours], values, atol=1e-5)
        assert np.ptp(values) > 0.1
        return
    for mine, their in zip(ours, map(by_label, theirs), strict=True):
        assert mine["probabilities"] == pytest.approx(their, abs=2e-6)
    assert np.ptp([next(iter(each["probabilities"].values())) for each in ours]) > 0.01


@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_pairs_are_read_and_cut_as_the_pipeline_does(model, files, tmp_path, capfd):  # noqa: F811
    run = random_run(files, "one label", model, tmp_path, **{"task.pair": "label"})
    pipeline = t.pipeline(SINGLE, exported(run), top_k=None, device="cpu")
    pairs = [(a * n, b * m) for a, b, n, m in PAIRS]

    ours = predicted(run, [{"text": a, "label": b} for a, b in pairs], capfd)

    theirs = pipeline([dict(text=a, text_pair=b) for a, b in pairs], truncation="longest_first")
    for mine, their in zip(ours, map(by_label, theirs), strict=True):
        assert mine["probabilities"] == pytest.approx(their, abs=2e-6)


PAIRS = [("ab", "cde", n, m) for n, m in [(1, 1), (40, 1), (1, 40), (40, 30), (40, 20), (22, 40)]]


@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_tags_are_those_of_the_pipeline(model, files, tmp_path, capfd):  # noqa: F811
    run = random_run(files, "tags", model, tmp_path)
    pipeline = t.pipeline("token-classification", exported(run), ignore_labels=[], device="cpu")
    texts = [text for text in TEXTS if len(text) < 60]

    ours = predicted(run, [{"text": text} for text in texts], capfd)

    found = set()
    for mine, their in zip(ours, pipeline(texts), strict=True):
        pieces = {}
        for piece in their:
            pieces.setdefault(piece["start"], piece)  # The first of those of a character.
        for (start, _), tag, p in zip(
            mine["offsets"], mine["tags"], mine["probabilities"], strict=True
        ):
            assert pieces[start]["entity"] == tag
            assert p == pytest.approx(pieces[start]["score"], abs=2e-6)
            found.add(tag)
    assert len(found) > 1


def test_answers_are_the_likeliest_spans_of_the_model(files, tmp_path, capfd):  # noqa: F811
    run = random_run(files, "answers", "bert", tmp_path)
    folder = exported(run)
    tokenizer = t.AutoTokenizer.from_pretrained(folder)
    model = t.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    asked = [("Wo?", "Das Haus ist in Köln."), ("什么?", "那是红色的房子。"), ("x", "a bc")]

    ours = predicted(run, [{"question": q, "context": c} for q, c in asked], capfd)

    for (question, context), mine in zip(asked, ours, strict=True):
        read = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
        offsets = read.pop("offset_mapping")[0].tolist()
        inside = [i for i, s in enumerate(read.sequence_ids()) if s == 1]
        with torch.no_grad():
            out = model(**read)
        start_L, end_L = out.start_logits[0].numpy(), out.end_logits[0].numpy()
        spans = [(start_L[i] + end_L[j], i, j) for i in inside for j in inside if 0 <= j - i < 30]
        score, i, j = max(spans)
        assert mine["score"] == pytest.approx(score, abs=1e-4)
        assert (mine["start"], mine["end"]) == (offsets[i][0], offsets[j][1])
        assert mine["none_score"] == pytest.approx(start_L[0] + end_L[0], abs=1e-4)


def said(ids):
    """Half characters spoil those before them in the decoder of `transformers`."""
    return tokenizers.ByteTokenizer().decode(ids).rstrip("\ufffd").strip()


def greedy(model, ids, **settings):
    ids_1L = torch.tensor([ids])
    with torch.no_grad():
        return model.generate(
            ids_1L,
            attention_mask=torch.ones_like(ids_1L),
            do_sample=False,
            max_new_tokens=8,
            **settings,
        )[0].tolist()


def test_replies_are_those_of_the_model_to_its_chat_template(files, tmp_path, capfd):  # noqa: F811
    run = random_run(files, "chats", None, tmp_path)
    folder = exported(run)
    tokenizer = t.AutoTokenizer.from_pretrained(folder)
    model = t.AutoModelForCausalLM.from_pretrained(folder).eval()
    chats = [[{"role": "user", "content": text}] for text in ("hi", "zwei 二")]

    for how in ({}, {"repetition_penalty": 1.5}):
        records = [{"messages": chat} for chat in chats]
        ours = predicted(run, records, capfd, max_new_tokens=8, **how)

        for chat, mine in zip(chats, ours, strict=True):
            ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
            new = greedy(model, ids, **how)[len(ids) :]
            assert mine["text"] == said(new)


def test_a_reply_ends_at_the_text_that_the_template_writes_behind_it(
    files,  # noqa: F811
    tmp_path,
    capfd,
    monkeypatch,
):
    # What a model without training writes has no text that a template would end answers by.
    monkeypatch.setattr(chat_lib, "_ending_text", str.strip)
    run = random_run(files, "chats", None, tmp_path)
    asked = [{"messages": [{"role": "user", "content": "hi"}]}]
    (whole,) = predicted(run, asked, capfd, max_new_tokens=40)
    text = whole["text"]
    end = next(
        text[i : i + 2] for i in range(3, len(text)) if text[i : i + 2].strip() == text[i : i + 2]
    )
    asks = {"repetition_penalty": 1.3}
    (run / "tokenizer" / "generation_config.json").write_text(json.dumps(asks))
    path = run / "config.json"
    config = json.loads(path.read_text())
    config["task"]["template"] = config["task"]["template"].replace("eos_token", json.dumps(end))
    path.write_text(json.dumps(config))

    (cut,) = predicted(run, asked, capfd, max_new_tokens=40)

    assert cut == {"text": text[: text.index(end)].strip(), "finish_reason": "stop"}
    assert whole["finish_reason"] == "length"
    assert "--config.repetition_penalty=1.3" in said_besides(run, capfd)


@pytest.mark.parametrize(("name", "num_beams"), [("pairs", 3), ("pairs, decoder", 1)])
def test_what_is_written_for_a_source_is_what_the_model_writes(
    name,
    num_beams,
    files,  # noqa: F811
    tmp_path,
    capfd,
):
    changes = {"task.num_beams": num_beams, "task.prompt": "to zh: {source} ="}
    run = random_run(files, name, None, tmp_path, **changes)
    folder = exported(run)
    tokenizer = t.AutoTokenizer.from_pretrained(folder)
    auto = t.AutoModelForSeq2SeqLM if name == "pairs" else t.AutoModelForCausalLM
    model = auto.from_pretrained(folder).eval()
    sources = ["zwei", "Köln 北京", "a b  c"]

    ours = predicted(run, [{"source": source} for source in sources], capfd)

    for source, mine in zip(sources, ours, strict=True):
        ids = tokenizer(f"to zh: {source} =").input_ids
        new = greedy(model, ids, num_beams=num_beams)[1 if name == "pairs" else len(ids) :]
        assert mine["text"].rstrip("\ufffd") == said(new)


def pretrained_run(config, folder):
    """A run that has read nothing yet."""
    config.model.update({k: v for k, v in TINY.items() if k in config.model})
    made = make_model(config.model, causal=config.objective.kind == "causal")
    params = random_params(init_params(made, jax.random.key(0)))
    return write_run(folder / "run", config, params, {"num_tokens": 0})


@pytest.mark.parametrize(("family", "adds_bos"), [("gpt2", True), ("llama", False)])
def test_what_a_pretrained_run_goes_on_with_is_what_the_pipeline_does(family, adds_bos, tmp_path):
    config = families.get_config(f"family={family},tokenizer=bytes")
    config.data.add_bos = adds_bos
    run = pretrained_run(config, tmp_path)
    pipeline = t.pipeline("text-generation", exported(run), device="cpu")
    prompts = ["zwei", "Köln 北京", "a b  c"]

    config = generate_config.get_config()
    config.update(checkpoint=str(run), temperature=0.0, max_new_tokens=8)
    config.update(prompts_file=str(tmp_path / "p.txt"), output=str(tmp_path / "out.jsonl"))
    (tmp_path / "p.txt").write_text("\n".join(prompts))
    assert generate.run(config.lock(), None) == 0

    lines = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    for prompt, line in zip(prompts, lines, strict=True):
        (their,) = pipeline(prompt, max_new_tokens=8, do_sample=False, return_tensors=True)
        assert (prompt + line["text"]).strip() == said(their["generated_token_ids"])
