"""What a config says of the model of `init_from` is used, or said to be unused."""

import json

import numpy as np
import pytest
import safetensors.numpy
import transformers as t
from flax.traverse_util import flatten_dict

from configs import adapt, classify, llama, quickstart
from experiments.wiring import init_from, pretraining
from lm.errors import UserError
from lm.loading import task_model
from lm.models.families import FAMILIES
from tests import run_folders
from tests.exported_pipelines_test import random_run
from tests.finetune_test import files  # noqa: F401
from tests.interop import task_folders_test


def started_from(recipe, folder, **model):
    run_folders.write(folder, json.loads(recipe.get_config("debug").to_json()), [])
    config = classify.get_config()
    config.init_from = str(folder)
    config.model.update(model)
    return init_from.with_model(config).model


@pytest.mark.parametrize("rate, said", [(0.1, ["model.dropout=0.1 is not used"]), (0.0, [])])
def test_dropout_for_a_model_that_has_none_is_said_to_be_unused(tmp_path, caplog, rate, said):
    model = started_from(llama, tmp_path / "run", dropout=rate, remat="dots")

    assert "dropout" not in model and model.remat == "dots"
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == said


def test_dropout_for_a_model_that_has_some_replaces_its_own(tmp_path, caplog):
    assert started_from(quickstart, tmp_path / "run", dropout=0.3).dropout == 0.3
    assert caplog.records == []


def checked(folder, objective):
    """The folder, the parts and abstract state of a config that adapts it, after all is checked."""
    config = adapt.get_config(f"objective={objective}")
    config.init_from = str(folder)
    config.data.update(seq_len=24, batch_size=8)
    config.train.update(num_steps=2, num_epochs=0.0)
    config = init_from.with_model(config)
    parts = pretraining.make_parts(config)
    abstract = pretraining.abstract_state(parts)
    init_from.check(config.init_from, parts.model, abstract.params, None)
    return config.init_from, parts, abstract


def started(folder, objective):
    """The parameters that adapting starts with."""
    return flatten_dict(init_from.make_state(*checked(folder, objective))(0).params)


def said(caplog):
    return " | ".join(record.getMessage() for record in caplog.records)


ENCODERS = {
    "a classifier": (t.BertForSequenceClassification, "classifier.weight"),
    "a tagger": (t.BertForTokenClassification, "classifier.weight"),
    "none": (t.BertModel, ""),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_with_another_head_is_adapted_with_a_new_output(name, tmp_path, caplog):
    make, left_out = ENCODERS[name]
    model = make(t.BertConfig(**task_folders_test.SIZES))
    folder = task_folders_test.save(model, tmp_path)

    params = started(folder, "masked")

    theirs = dict(model.named_parameters())
    (key,) = [name for name in theirs if name.endswith("word_embeddings.weight")]
    found = params["encoder", "token_embedding"]
    np.testing.assert_array_equal(found, theirs[key].detach().numpy())
    assert left_out in said(caplog)
    assert "has none, so that these are new: " in said(caplog)
    assert "output_bias, transform/bias, transform/kernel" in said(caplog)
    assert np.abs(params["transform", "kernel"]).max() > 0
    again = started(folder, "masked")
    for path, x in params.items():
        np.testing.assert_array_equal(x, again[path])


def test_a_language_model_that_lacks_its_output_is_still_refused(tmp_path):
    folder = task_folders_test.save(t.BertModel(t.BertConfig(**task_folders_test.SIZES)), tmp_path)
    task_folders_test.edit(folder, architectures=["BertForMaskedLM"])
    path = folder / "model.safetensors"
    held = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(
        {f"bert.{k}": x for k, x in held.items() if "pooler" not in k}, path
    )
    assert started(folder, "masked")  # It is bare, whatever it says.
    held["cls.predictions.bias"] = np.zeros(len(task_folders_test.WORDS), np.float32)
    safetensors.numpy.save_file(held, path)

    with pytest.raises(UserError, match=r"missing keys: cls\.predictions\.transform"):
        started(folder, "masked")


@pytest.mark.parametrize(
    ("name", "model", "objective"),
    [
        ("one label", "bert", "masked"),
        ("tags", "gpt2", "causal"),
        ("chats", "gpt2", "causal"),
        ("pairs", None, "span"),
    ],
)
def test_the_body_of_a_fine_tuned_run_is_adapted(name, model, objective, files, tmp_path, caplog):  # noqa: F811
    folder = random_run(files, name, model, tmp_path)
    loaded = task_model.load(folder)

    params = started(folder, objective)

    expected = task_model.as_in_module(loaded.params, FAMILIES[loaded.config["model"]["name"]])
    shared = params.keys() & expected.keys()
    assert {path[0] for path in params.keys() - shared} <= {
        "transform",
        "transform_norm",
        "output_bias",
        "next_sentence_head",
    }
    for path in shared:
        np.testing.assert_array_equal(params[path], expected[path], "/".join(path))
    left = "left out, for it has no place here: head" in said(caplog)
    assert left == (name in ("one label", "tags"))


def test_an_encoder_without_its_decoder_is_refused(files, tmp_path):  # noqa: F811
    folder = random_run(files, "one label", "t5", tmp_path)

    with pytest.raises(UserError, match="was fine-tuned without decoder/"):
        checked(folder, "span")
