"""lm_eval against runs, on tasks in local files."""

import functools
import json
import math

import jax
import numpy as np
import pytest
import yaml
from lm_eval.api.instance import Instance

from configs import bert, llama, t5
from configs import harness as harness_config
from experiments import convert, harness
from lm.errors import UserError
from lm.generation import sampling, scoring
from lm.models.factory import make_model
from lm.models.families import param_shapes
from lm.tokenizers.tokenizers import ByteTokenizer
from tests.generate_test import FOLDERS, TURNS, make_folder, stop_at

MAKERS = {"llama": llama.get_config, "t5": t5.get_config, "bert": bert.get_config}
QUESTIONS = [
    {"question": "2+2=", "choices": ["4", " five", "22"], "answer": 0},
    {"question": "Köln liegt am ", "choices": ["Rhein", "黄河"], "answer": 0},
    {"question": "北京是", "choices": ["中国的首都", "x", "y", "z" * 40], "answer": 1},
    {"question": "", "choices": ["a", "b"], "answer": 1},
    {"question": "long " * 30, "choices": ["a ", "bcd"], "answer": 0},
]
TEXTS = [{"text": "Das ist kurz."}, {"text": "这是很长的文字。" * 9}, {"text": "a b c\n"}]


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory, random_like):
    """Runs of random weights that read bytes, by family."""
    folder = tmp_path_factory.mktemp("runs")
    for name, get_config in MAKERS.items():
        block = get_config("debug").model
        block.update(vocab_size=300, dtype="float32", attention="einsum")
        model = make_model(block, causal=True)
        params = random_like(param_shapes(model), scale=0.4)
        made = convert.Model(block.to_dict(), params, "float32", ByteTokenizer())
        convert.write_run(folder / name, made, source="random")
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    data = {"choice": QUESTIONS, "rolling": TEXTS, "writing": QUESTIONS[:2]}
    own = {
        "choice": dict(
            output_type="multiple_choice",
            doc_to_text="{{question}}",
            doc_to_choice="{{choices}}",
            doc_to_target="{{answer}}",
            metric_list=[dict(metric="acc", aggregation="mean", higher_is_better=True)],
        ),
        "rolling": dict(
            output_type="loglikelihood_rolling",
            doc_to_text="",
            doc_to_target="{{text}}",
            metric_list=[dict(metric="bits_per_byte")],
        ),
        "writing": dict(
            output_type="generate_until",
            doc_to_text="{{question}}",
            doc_to_target="4",
            generation_kwargs=dict(until=["\n\n"], max_gen_toks=8),
            metric_list=[dict(metric="exact_match", aggregation="mean", higher_is_better=True)],
        ),
    }
    for name, records in data.items():
        lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
        (folder / f"{name}.jsonl").write_text(lines)
        files = {"test": str(folder / f"{name}.jsonl")}
        task = dict(task=f"tiny_{name}", dataset_path="json", test_split="test")
        task |= dict(dataset_kwargs=dict(data_files=files)) | own[name]
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return folder


def make_config(runs_folder, folder, family="llama", **changes):
    config = harness_config.get_config()
    config.update(
        checkpoint=str(runs_folder / family),
        tasks="tiny_choice,tiny_rolling,tiny_writing",
        include_path=str(folder),
        default_tasks=False,
        max_len=64,
        log_samples=True,
    )
    config.update(changes)
    return config.lock()


@pytest.fixture(scope="module", params=["llama", "t5"])
def evaluated(request, runs_folder, tasks, tmp_path_factory):
    """Results by batch size."""
    mp = pytest.MonkeyPatch()
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        mp.setenv(name, "1")
    mp.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    results = {}
    for size in (1, 8):
        config = make_config(runs_folder, tasks, request.param, batch_size=size)
        workdir = tmp_path_factory.mktemp("harness") / "out"
        assert harness.run(config, workdir) == 0
        results[size] = json.loads((workdir / "results.json").read_text())
    mp.undo()
    return config, results


def answers_of(results, task):
    return [sample["resps"] for sample in results["samples"][f"tiny_{task}"]]


def test_the_batch_changes_no_answer(evaluated):
    _, results = evaluated

    for task in ("choice", "rolling"):
        flat = [
            np.array(jax.tree.leaves(answers_of(results[size], task)), float) for size in (1, 8)
        ]
        assert len(flat[0]) >= 3
        np.testing.assert_allclose(flat[0], flat[1], atol=1e-4)
    assert answers_of(results[1], "writing") == answers_of(results[8], "writing")
    assert results[1]["results"].keys() == {"tiny_choice", "tiny_rolling", "tiny_writing"}


def log_likelihood(model, context, text):
    """By one forward pass over this text alone, in a row of 200 tokens."""
    read = [0, *text[:-1]] if model.has_encoder else [*context, *text[:-1]]
    pad = lambda ids: np.array([[*ids, *[0] * (200 - len(ids))]])
    real = lambda ids: pad([1] * len(ids))
    if model.has_encoder:
        inputs = pad(context), real(context), pad(read), real(read)
    else:
        inputs = pad(read), np.arange(200)[None] % 64, real(read)
    output = _apply(model._model)({"params": model._params}, *inputs)
    logits_LV = np.asarray(output.logits(), float)[0, len(read) - len(text) : len(read), :259]
    likely_L = logits_LV[np.arange(len(text)), text] - np.logaddexp.reduce(logits_LV, axis=1)
    return likely_L.sum(), (logits_LV.argmax(1) == text).all()


@functools.cache
def _apply(model):
    return jax.jit(model.apply)


def test_answers_are_those_of_the_forward_pass(evaluated):
    config, results = evaluated
    model = harness.load(config)
    encode = lambda text: ByteTokenizer().encode_batch([text])[0].tolist()

    found = answers_of(results[8], "choice")
    for question, answers in zip(QUESTIONS[:2], found[:2], strict=True):
        # A space at the context's end belongs to what follows it.
        context, space = question["question"].rstrip(), question["question"].endswith(" ") * " "
        for choice, ((answer, greedy),) in zip(question["choices"], answers, strict=True):
            ids = model.tok_encode(context)
            expected = log_likelihood(model, ids, encode(f"{space} {choice}"))
            assert (float(answer), greedy == "True") == (
                pytest.approx(expected[0], abs=1e-3),
                expected[1],
            )
    bits = 0.0
    for text in TEXTS:
        ids = encode(text["text"])
        for first in range(0, len(ids), 64):
            piece = ids[first : first + 64]
            context = [1, *ids[:first]][-(65 - len(piece)) :]
            total, _ = log_likelihood(model, [2] if model.has_encoder else context, piece)
            bits -= total / math.log(2)
    num_bytes = sum(len(text["text"].encode()) for text in TEXTS)
    assert results[8]["results"]["tiny_rolling"]["bits_per_byte,none"] == pytest.approx(
        bits / num_bytes, abs=1e-4
    )


def test_a_score_is_that_of_the_pair_alone_and_needs_few_programs(runs_folder, tasks):
    model = harness.load(make_config(runs_folder, tasks))
    rng = np.random.default_rng(0)
    draw = lambda n: rng.integers(3, 259, n).tolist()
    pairs = [(draw(rng.integers(1, 40)), draw(rng.integers(1, 20))) for _ in range(11)]
    settings = dict(vocab_size=259)
    together = scoring.score(model._model, model._params, pairs, **settings)
    num_compiled = scoring._score._cache_size()

    alone = [
        scoring.score(model._model, model._params, [pair] * 8, **settings)[0] for pair in pairs
    ]

    assert scoring._score._cache_size() == num_compiled
    for a, b in zip(together, alone, strict=True):
        assert a.log_likelihood == pytest.approx(b.log_likelihood, abs=1e-4)
        assert a.is_greedy == b.is_greedy


REFUSED = {
    "an unknown task": ({"tasks": "tiny_choice,no_task"}, "'no_task' is unknown"),
    "no tasks": ({"tasks": ""}, "tasks is not set"),
    "no run": ({"checkpoint": ""}, "checkpoint is not set"),
    "not a run": ({"checkpoint": "no/run"}, "no/run"),
    "more than the positions": ({"max_len": 65}, "max_len=65"),
    "no folder": ({"include_path": "no/folder"}, "include_path=no/folder"),
    "no batch": ({"batch_size": 0}, "batch_size=0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(name, runs_folder, tasks, tmp_path):
    changes, message = REFUSED[name]

    with pytest.raises(UserError, match=message) as caught:
        harness.run(make_config(runs_folder, tasks, **changes), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_encoder_gives_no_likelihood(runs_folder, tasks):
    with pytest.raises(UserError, match="bert gives no likelihood"):
        harness.load(make_config(runs_folder, tasks, "bert"))


def test_a_setting_of_generation_that_is_not_known_is_named(runs_folder, tasks):
    model = harness.load(make_config(runs_folder, tasks))
    request = Instance("generate_until", {}, ("a", {"until": ["\n"], "num_beams": 4}), 0)

    with pytest.raises(UserError, match="num_beams=4 is not supported; known are do_sample"):
        model.generate_until([request])


PAIRS = [
    ("the thing", " in the"),
    ("北京是 ", "中国的"),
    ("a <|stop|> b", " the"),
    ("", "the thing"),
]
# A folder with an end around a text is not here: there lm_eval scores the end in place of the first
# token.
ALIKE = {
    name: FOLDERS[name]
    for name in ("unigram", "nothing around, a first", "a first around", "Metaspace")
} | {f"GPT-2, {said} first": ("gpt2", "$A", None, "gpt2") for said in ("a null", "no")}


@pytest.mark.parametrize("name", ALIKE)
def test_contexts_and_scores_are_those_of_lm_eval_for_the_same_folder(name, tmp_path):
    from lm_eval.models.huggingface import HFLM

    kind, around, first, architecture = ALIKE[name]
    folder = make_folder(tmp_path / "hf", kind, around, first, architecture, TURNS)
    if name.startswith("GPT-2"):  # Its pieces have an <s>, which is then no first token.
        path = folder / "tokenizer_config.json"
        said = json.loads(path.read_text())
        said.pop("bos_token", None)
        path.write_text(json.dumps(said | ({"bos_token": None} if "null" in name else {})))
    end, turn = 445, 446
    stop_at(folder, [end, turn])
    theirs = HFLM(pretrained=str(folder), device="cpu", batch_size=1, dtype="float32")
    config = harness_config.get_config()
    config.checkpoint = str(folder)
    ours = harness.load(config)

    for context, text in PAIRS:
        assert ours.tok_encode(context) == theirs.tok_encode(context)
        if context:
            assert ours._encode_pair(context, text) == theirs._encode_pair(context, text)
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in PAIRS]
    found, expected = (lm.loglikelihood(requests, disable_tqdm=True) for lm in (ours, theirs))
    np.testing.assert_allclose([x for x, _ in found], [x for x, _ in expected], atol=1e-4)
    assert [x for _, x in found] == [x for _, x in expected]
    if around == "$A":  # Else theirs gives a first token a likelihood behind itself.
        rolling = [Instance("loglikelihood_rolling", {}, (text,), 0) for _, text in PAIRS]
        found, expected = (
            lm.loglikelihood_rolling(rolling, disable_tqdm=True) for lm in (ours, theirs)
        )
        np.testing.assert_allclose(found, expected, atol=1e-4)
    chats = [
        [{"role": "user", "content": "the thing"}],
        [{"role": "system", "content": "in the"}, {"role": "user", "content": "北京是"}],
    ]
    for chat in chats:
        assert ours.apply_chat_template(chat) == theirs.apply_chat_template(chat)
        goes_on = [*chat, {"role": "assistant", "content": "the answer is "}]
        found, expected = (lm.apply_chat_template(goes_on, False) for lm in (ours, theirs))
        assert found == expected
    assert ours.tokenizer_name


def test_a_stop_string_that_is_a_special_token_ends_an_answer(tmp_path):
    """What the model writes is told it; what matters is which of it is kept."""
    folder = make_folder(tmp_path / "hf", *FOLDERS["nothing around, a first"])
    config = harness_config.get_config()
    config.checkpoint = str(folder)
    model = harness.load(config)
    request = lambda until: Instance("generate_until", {}, ("the thing", until), 0)
    (whole,) = model.generate_until([request(dict(until=["never"], max_gen_toks=12))])
    asked = {}
    real = sampling.sample

    def spy(*args, stop_ids, **settings):
        asked["stop_ids"] = tuple(stop_ids)
        return real(*args, stop_ids=stop_ids, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "sample", spy)
        (named,) = model.generate_until([request(dict(until="<|stop|>\n", max_new_tokens=12))])
        special = asked["stop_ids"]
        (cut,) = model.generate_until([request(dict(until=[whole[2:5]], max_tokens=12))])

    assert special == (445, 447)
    assert asked["stop_ids"] == (445,)
    assert named == whole
    assert cut == whole[: whole.index(whole[2:5])]


def test_a_text_behind_answers_ends_them_where_the_template_is_applied(tmp_path):
    kind, around, first, architecture = FOLDERS["nothing around, a first"]
    turns = TURNS.replace("<|stop|>\n", "{{ END if m.role == 'assistant' else '\\n' }}")
    folder = make_folder(tmp_path / "hf", kind, around, first, architecture, turns)
    config = harness_config.get_config()
    config.checkpoint = str(folder)

    def written(end, applies):
        (folder / "chat_template.jinja").write_text(turns.replace("END", json.dumps(end)))
        config.apply_chat_template = applies
        settings = dict(until=["never"], max_gen_toks=12)
        request = Instance("generate_until", {}, ("<|turn|>the thing", settings), 0)
        (text,) = harness.load(config).generate_until([request])
        return text

    whole = written("<|stop|>", True)
    begins = whole.index(" ", 1)
    end = whole[begins : begins + 3]
    assert written(end, True) == whole[: whole.index(end)]
    assert written(end, False) == written("<|stop|>", False)
    assert end in written(end, False)


def test_a_chat_template_that_is_not_there_is_missed(runs_folder, tasks):
    with pytest.raises(UserError, match="has no chat template"):
        harness.load(make_config(runs_folder, tasks, apply_chat_template=True))


@pytest.mark.parametrize(
    ("add_bos", "expected"), [(None, [1, 100]), (True, [1, 100]), (False, [100])]
)
def test_a_context_begins_as_asked(add_bos, expected, runs_folder, tasks):
    model = harness.load(make_config(runs_folder, tasks, add_bos=add_bos))

    assert model.tok_encode("a") == expected
    assert model.tok_encode("<s>a") == expected if add_bos is None else True
