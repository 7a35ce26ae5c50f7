"""What looks write, and how they answer mistakes, as they are launched.

Dimension key: N layers, L length, F neurons of a layer, K kept places.
"""

import functools
import json
import pathlib

import numpy as np
import pytest
import torch

from experiments import interpret
from experiments.wiring.number_ranges import check_numbers
from lm.errors import UserError
from lm.formats.fields import Record
from lm.interpret import neurons, subject
from tests import browser, interpret_folders
from tests.interpret.interpret_test import interpret_config, look

TEXT = "The cat 北京 sat."
SENTENCES = ["the cat sat", "the dog saw the mat", "a cat saw a dog on the mat", "the mat sat"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    @functools.cache
    def folder(kind):
        path = tmp_path_factory.mktemp(kind)
        return path, interpret_folders.save(kind, path)

    return folder


@pytest.fixture
def tagged(tmp_path):
    """Files of words, with tags that say which are nouns."""
    for name, sentences in (("train", SENTENCES[:3]), ("held_out", SENTENCES[3:])):
        lines = []
        for words in map(str.split, sentences):
            tags = ["N" if word in ("cat", "dog", "mat") else "O" for word in words]
            lines.append(json.dumps(dict(tokens=words, tags=tags)))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "texts.txt").write_text("\n".join(SENTENCES))
    return tmp_path


@pytest.mark.parametrize("kind", ["gpt2", "bert", "classifier", "t5"])
def test_probes_read_words_of_any_model(kind, folders, tagged, tmp_path):
    files = dict(train_file=str(tagged / "train.jsonl"), texts_file=str(tagged / "held_out.jsonl"))
    values, _ = look(folders(kind)[0], tmp_path / "out", "probes", texts=(), **files)

    (found,) = values["found"]
    assert found["labels"] == ["N", "O"] and found["majority"] == pytest.approx(2 / 3)
    assert [one["layer"] for one in found["layers"]] == ["embedding", "layer 0", "layer 1"]
    # Words were seen in training, where embeddings tell each from the others.
    assert found["layers"][0]["accuracy"] == 1
    for one in found["layers"]:
        assert one["selectivity"] == pytest.approx(one["accuracy"] - one["control"])


@pytest.mark.parametrize("kind", ["gpt2", "classifier", "t5"])
def test_each_word_has_its_first_token(kind, folders):
    one, words = subject.open_subject(folders(kind)[0]), ["the", "believable", "北京", "mat"]
    text, first_W = subject.read_words(one, "words", words)

    ids_L = next(iter(text.sides.values())).ids_L
    parts = np.split(ids_L, first_W)
    assert [one.run.tokenizer.decode(part).strip() for part in parts] == ["", *words]


def test_statistics_of_neurons_are_those_of_transformers_and_add_up(folders):
    folder, reference = folders("gpt2")
    one = subject.open_subject(folder)
    texts = [
        (i, subject.read(one, Record(f"{i}", {"text": text}), is_whole=False)[0])
        for i, text in enumerate(SENTENCES)
    ]
    seen = []
    for block in reference.transformer.h:
        block.mlp.c_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].numpy()))
    for _, text in texts:
        with torch.no_grad():
            reference(input_ids=torch.tensor(text.sides[""].ids_L[None]).long())
    by_layer = [np.concatenate(seen[n::2]) for n in range(2)]

    (whole,) = neurons.neuron_statistics(one, texts).values()
    (first,) = neurons.neuron_statistics(one, texts[:2]).values()
    (second,) = neurons.neuron_statistics(one, texts[2:]).values()

    expected_NF = np.stack([x.sum(axis=0) for x in by_layer])
    np.testing.assert_allclose(whole.sum_NF, expected_NF, atol=1e-4)
    zero_NF = np.stack([(x <= 0).sum(axis=0) for x in by_layer])
    np.testing.assert_array_equal(whole.num_zero_NF, zero_NF)
    highest = np.stack([-np.sort(-x, axis=0)[:5].T for x in by_layer])
    np.testing.assert_allclose(whole.values_NFK, highest, atol=1e-5)
    starts = np.cumsum([0, *(len(text.sides[""].ids_L) for _, text in texts)])
    at_NFK = starts[whole.text_NFK] + whole.position_NFK
    there = np.stack([x.T for x in by_layer])
    np.testing.assert_allclose(
        np.take_along_axis(there, at_NFK, axis=2), whole.values_NFK, atol=1e-5
    )
    for a, b in zip(first + second, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


SETTINGS = {
    "lens": dict(num_steps=2, batch_size=2),
    "attributions": dict(target=" the"),
    "tracing": dict(texts=("the 1 sat", "the 2 sat")),
    "neurons": dict(num_shown=7),
}


@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs chromium on PATH")
@pytest.mark.parametrize("what", SETTINGS)
def test_each_look_has_a_page_without_a_request(what, folders, tagged, tmp_path):
    settings = SETTINGS[what] | (
        dict(train_file=str(tagged / "texts.txt")) if what == "lens" else {}
    )
    values, arrays = look(folders("gpt2")[0], tmp_path / "out", what, **settings)

    page = tmp_path / "out/interpret.html"
    with browser.opened(page, viewport={"width": 400, "height": 900}) as (shown, asked, problems):
        assert shown.locator(".block").count() == {"tracing": 8}.get(what, 1)
        assert shown.evaluate("document.documentElement.scrollWidth") <= 400
        colours = shown.locator(".block .cell, .block td").evaluate_all(
            "all => all.map(one => one.style.background).filter(Boolean).length"
        )
        assert colours > 5 or what == "neurons"
        if what == "neurons":
            assert shown.locator("tbody tr").count() == 7
        assert (asked, problems) == ([page.as_uri()], [])
    assert values["what"] == what and len(arrays.files) >= 1


def test_a_tracing_says_both_values_and_effects(folders, tmp_path):
    values, arrays = look(folders("gpt2")[0], tmp_path, "tracing", **SETTINGS["tracing"])
    (found,) = values["found"]
    effects = arrays["0/effects/layers.in"]
    # All that differs is one token; its embedding alone is all of the change.
    change = found["clean"] - found["corrupted"]
    assert np.abs(effects[0]).max() == pytest.approx(abs(change), abs=1e-5)
    assert np.count_nonzero(np.abs(effects[0]) > 1e-6) == 1


MISTAKES = {
    "lens of an encoder": ("bert", "lens", {}, "post-norm"),
    "a tuned lens without texts": ("gpt2", "lens", dict(num_steps=3), "train_file is not set"),
    "a method that is none": ("gpt2", "attributions", dict(method="x"), "method='x' is unknown"),
    "a baseline that is none": ("gpt2", "attributions", dict(baseline="x"), "baseline='x'"),
    "a target of many": ("gpt2", "attributions", dict(target="unbelievable"), "name one token"),
    "one text": ("gpt2", "tracing", dict(texts=("a",)), "there are 1; give these two"),
    "unequal texts": ("gpt2", "tracing", dict(texts=("cat", "the cat sat")), "as many tokens"),
    "a site": (
        "gpt2",
        "tracing",
        dict(texts=("cat 1", "cat 2"), sites=("layers.inn",)),
        r"the nearest is layers\.in",
    ),
    "nothing to train on": ("gpt2", "probes", dict(texts=(), texts_file="x"), "train_file is not"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(name, folders, tmp_path):
    kind, what, settings, message = MISTAKES[name]
    with pytest.raises(UserError, match=message) as error:
        look(folders(kind)[0], tmp_path / "out", what, **settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([dict(tokens=["a", "b"], tags=["N"])], "has 2 words and 1 tags"),
        ([dict(tokens=["a", "b"])], "needs lists of texts in the fields 'tokens' and 'tags'"),
        ([dict(tokens=["a", "b"], tags=["N", "N"])], "1 label, N"),
        ([dict(tokens=["a", "b"], tags=["N", "O"])], "2 words for 2 labels"),
    ],
)
def test_probes_refuse_what_they_cannot_learn(lines, message, folders, tagged, tmp_path):
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, lines)))
    files = dict(train_file=str(tmp_path / "bad.jsonl"), texts_file=str(tagged / "held_out.jsonl"))
    with pytest.raises(UserError, match=message):
        look(folders("gpt2")[0], tmp_path / "out", "probes", texts=(), **files)


@pytest.mark.parametrize(
    ("what", "key", "value"),
    [
        ("attributions", "num_nodes", 0),
        ("tracing", "chunk_size", 0),
        ("attention", "layers", (-1,)),
    ],
)
def test_numbers_out_of_range_are_refused(what, key, value):
    config = interpret_config.get_config(f"what={what}")
    config[key] = value
    with pytest.raises(UserError, match=f"{key}="):
        check_numbers(config.to_dict())


def test_every_look_is_described():
    text = (pathlib.Path(interpret.__file__).parent.parent / "docs/interpret.md").read_text()
    for what in interpret_config._WHATS:
        assert f"| `{what}` |" in text
