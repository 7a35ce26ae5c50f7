"""Attributions beside those of captum and their own laws, for models of every head.

Dimension key: B batch, L length, D model width, M key length.
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers as hf
import transformers

from lm.errors import UserError
from lm.formats.fields import Record
from lm.interpret import attributions, subject
from lm.interpret.attention_maps import attention_maps
from lm.interpret.targets import Target, make_target
from lm.loading.task_model import SavedTaskModel
from lm.models import heads
from lm.models.families import FAMILIES
from lm.tasks.tagging import Tagging
from lm.tasks.text import TextInputs
from lm.tokenizers import tokenizers
from lm.tokenizers.tokenizers import ByteTokenizer
from tests import interpret_folders
from tests.models.all_families_test import CONFIGS

REFERENCE = json.loads(pathlib.Path(__file__).with_name("captum_reference.json").read_text())
TEXT, NUM_NODES = "The cat 北京 sat.", 20


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """(kind) -> the subject, and the text as it reads it."""

    @functools.cache
    def of(kind):
        folder = tmp_path_factory.mktemp(kind)
        interpret_folders.save(kind, folder)
        one = subject.open_subject(folder)
        fields = {"text": TEXT} | ({"target": "the dog"} if kind == "t5" else {})
        (text,) = subject.read(one, Record("text 1", fields), is_whole=False)
        return one, text

    return of


def explained(one, text, **settings):
    return make_target(one, text, **{"name": "", "versus": "", "place": -1} | settings)


@pytest.mark.parametrize("kind", REFERENCE)
def test_attributions_are_those_of_captum(kind, opened):
    one, text = opened(kind)
    expected = REFERENCE[kind]
    assert text.sides[""].ids_L.tolist() == expected["ids"]
    target = explained(one, text)
    assert target.index == expected["target"]

    integrated = attributions.integrated_gradients(
        one, text, target, baseline="zero", num_nodes=NUM_NODES
    )
    found = {
        "integrated_gradients": integrated,
        "gradient_x_input": attributions.gradient_x_input(one, text, target),
        "saliency": attributions.saliency(one, text, target),
    }

    for name, made in found.items():
        (x_LD,) = made.by_site.values()
        theirs_LD = np.array(expected[name])
        assert np.abs(theirs_LD).max() > 0.05
        np.testing.assert_allclose(x_LD, theirs_LD, atol=1e-5 * np.abs(theirs_LD).max(), rtol=1e-4)


@pytest.mark.parametrize("baseline", ["zero", "mean", "pad", "mask"])
@pytest.mark.parametrize("kind", ["llama", "t5", "classifier"])
def test_attributions_add_up_to_the_change_from_any_baseline(kind, baseline, opened):
    one, text = opened(kind)
    labels = dict(name="差", versus="bad") if kind == "classifier" else dict(name=" the")
    target = explained(one, text, **labels)

    made = attributions.integrated_gradients(one, text, target, baseline=baseline, num_nodes=303)

    total = sum(x_LD.sum() for x_LD in made.by_site.values())
    change = made.value - made.baseline_value
    assert abs(change) > 1e-3
    # An RMS norm divides what is near zero vectors by about nothing: no sum follows that.
    if baseline != "zero" or kind == "classifier":
        assert total == pytest.approx(change, rel=2e-2)
    assert made.gap == pytest.approx(total - change, abs=1e-5)
    assert (
        set(made.by_site)
        == {
            "llama": {"embedding.out"},
            "t5": {"encoder/embedding.out", "decoder/embedding.out"},
            "classifier": {"body/embedding.out"},
        }[kind]
    )


def test_too_few_nodes_leave_a_gap_that_is_told(opened):
    one, text = opened("llama")
    gaps = [
        abs(
            attributions.integrated_gradients(
                one, text, explained(one, text), baseline="mean", num_nodes=n
            ).gap
        )
        for n in (1, 63)
    ]
    assert gaps[0] > 10 * gaps[1]


@pytest.mark.parametrize("kind", ["llama", "classifier"])
def test_rows_of_a_rollout_sum_to_1_and_hide_what_is_hidden(kind, opened):
    one, text = opened(kind)
    (rolled_LM,) = attributions.attention_rollout(one, text).values()

    np.testing.assert_allclose(rolled_LM.sum(axis=1), 1, atol=1e-6)
    L = len(text.sides[""].ids_L)
    hidden = np.triu(np.ones((L, L), bool), 1)
    assert (rolled_LM[hidden] == 0).all() == (kind == "llama")
    # By hand: half of each layer is the token itself.
    (probs,) = attention_maps(one, text).values()
    by_hand = np.eye(L)
    for layer in probs.astype(np.float64).mean(axis=1):
        by_hand = (layer + np.eye(L)) / 2 @ by_hand
    np.testing.assert_allclose(rolled_LM, by_hand, atol=1e-6)


def test_emissions_of_a_crf_are_explained_word_by_word(random_like):
    tokenizer = ByteTokenizer()
    config = CONFIGS["bert"].__class__(**vars(CONFIGS["bert"]) | dict(vocab_size=260, max_len=64))
    inputs = TextInputs(tokenizer, FAMILIES["bert"], num_types=1, seq_len=48, truncate=False)
    labels = ["O", "B-X", "I-X"]
    task = Tagging(
        inputs,
        labels=labels,
        crf=True,
        scheme="BIO",
        on_ill_formed="raise",
        tokens="tokens",
        tags="tags",
    )
    model = task.objective.module(FAMILIES["bert"], config)
    assert isinstance(model, heads.CRFTagger)
    shapes = jax.eval_shape(lambda: task.objective.init_params(model, jax.random.key(0)))
    params = jax.tree.map(jnp.asarray, random_like(shapes))
    blocks = dict(
        model=dict(name="bert"), task=dict(kind="tagging", labels=labels), data=dict(seq_len=48)
    )
    run = SavedTaskModel(
        pathlib.Path("run"), blocks, task, model, 3, params, tokenizer, params, None, None
    )
    one = subject.Subject(run.folder, 3, "tagging", model, params, run, "")
    (text,) = subject.read(one, Record("r", {"text": "Anna saw 北京"}), is_whole=False)
    cells = [cell.text for cell in text.sides[""].cells if not cell.is_special]
    assert cells == list("Anna saw 北京")

    target = explained(one, text, name="B-X", versus="O", place=2)
    made = attributions.integrated_gradients(one, text, target, baseline="zero", num_nodes=40)
    logits, _ = subject.run_model(model, params, text.inputs)

    assert logits.shape[-1] == 3 and target == Target("B-X - O", 2, 1, 0)
    assert made.value == pytest.approx(float(logits[0, 2, 1] - logits[0, 2, 0]), abs=1e-5)
    assert abs(made.gap) < 1e-2 * max(abs(made.value - made.baseline_value), 1)
    with pytest.raises(UserError, match="place=4 is not there; r has 4"):
        explained(one, text, place=4)


MISTAKES = {
    "several tokens": ("llama", dict(name=" unbelievable"), r"is \d+ tokens"),
    "no label": ("classifier", dict(name="best"), "no output; there are bad, good, 差"),
    "itself": ("classifier", dict(name="good", versus="good"), "is the target itself"),
    "a place": ("llama", dict(place=99), "place=99 is not there"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_target_that_is_none_is_named(name, opened):
    kind, settings, message = MISTAKES[name]
    with pytest.raises(UserError, match=message) as error:
        explained(*opened(kind), **settings)
    assert "\n" not in str(error.value)


def test_a_target_outside_of_the_vocabulary_is_named(opened, tmp_path):
    one, text = opened("llama")
    words = hf.Tokenizer(hf.models.WordLevel({"?": 0, "cat": 1, "dog": 2}, unk_token="?"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(
        tmp_path
    )
    one = one._replace(run=one.run._replace(tokenizer=tokenizers.load_file(tmp_path)))
    assert explained(one, text, name="dog").index == 2
    with pytest.raises(UserError, match="target='zebra' is not in the vocabulary; name one token"):
        explained(one, text, name="zebra")


def test_a_baseline_without_its_token_is_refused(opened):
    one, text = opened("llama")
    tokenizer = ByteTokenizer()
    without = one._replace(run=one.run._replace(tokenizer=tokenizer))
    with pytest.raises(UserError, match=r"baseline=mask: .* no such token"):
        attributions.integrated_gradients(
            without, text, Target("x", 0, 0, None), baseline="mask", num_nodes=2
        )
