"""What was fine-tuned, carried to `transformers` and `peft`, and back."""

import json

import jax
import numpy as np
import peft
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict

from configs import adapt
from configs import convert as convert_config
from experiments import convert, pretrain
from lm.errors import UserError
from lm.loading import language_model, task_model
from tests.finetune_test import files, make_config, run  # noqa: F401

LORA = {"lora.rank": 2, "lora.targets": "attention/(query|value)/kernel", "train.num_steps": 2}


def carry(source, target, **settings):
    config = convert_config.get_config()
    config.update(source=str(source), target=str(target), **settings)
    assert convert.run(config, target) == 0


@pytest.fixture(scope="module")
def adapted(files, tmp_path_factory):  # noqa: F811
    """A base, as a folder of `transformers`, and a run that adapts it to chats."""
    folder = tmp_path_factory.mktemp("adapted")
    run(make_config(files, "chats"), folder / "first")
    carry(folder / "first", folder / "base")
    config = make_config(files, "chats", **LORA)
    config.optimizer.peak_lr = 0.1
    config.init_from = str(folder / "base")
    del config.model.name
    run(config, folder / "run")
    return folder


def logits_of_ours(model, params):
    tokens_BL = np.arange(3, 14)[None]
    inputs = tokens_BL, np.arange(11)[None], np.ones_like(tokens_BL)
    return np.asarray(jax.jit(model.apply)({"params": params}, *inputs).logits())


def logits_of_theirs(model):
    with torch.no_grad():
        return model.eval()(torch.arange(3, 14)[None]).logits.numpy()


def test_adapters_are_read_by_peft_on_their_base(adapted):
    carry(adapted / "run", adapted / "peft", adapters=True)

    base = transformers.AutoModelForCausalLM.from_pretrained(adapted / "base")
    before = logits_of_theirs(base)
    theirs = logits_of_theirs(peft.PeftModel.from_pretrained(base, adapted / "peft"))

    loaded = task_model.load(adapted / "run")
    assert np.abs(theirs - before).max() > 1e-2
    np.testing.assert_allclose(logits_of_ours(loaded.model, loaded.params), theirs, atol=1e-4)
    settings = json.loads((adapted / "peft" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(adapted / "base")
    assert "library_name: peft" in (adapted / "peft" / "README.md").read_text()


def test_merged_weights_say_the_same_and_keep_the_template(adapted):
    carry(adapted / "run", adapted / "merged")

    theirs = transformers.AutoModelForCausalLM.from_pretrained(adapted / "merged")
    loaded = task_model.load(adapted / "run")
    ours = logits_of_ours(loaded.model, loaded.params)
    np.testing.assert_allclose(ours, logits_of_theirs(theirs), atol=1e-4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(adapted / "merged")
    assert tokenizer.chat_template == loaded.config["task"]["template"]


@pytest.mark.parametrize("base", ["base", "first"])
def test_adapters_of_peft_come_back_merged_into_a_run(adapted, base, tmp_path):
    carry(adapted / "run", tmp_path / "peft", adapters=True)
    source = adapted / "base"
    if base == "first":  # As a run, not as a folder of transformers.
        source = tmp_path / "imported"
        carry(adapted / "base", source)

    carry(tmp_path / "peft", tmp_path / "back", base=str(source))

    expected = flatten_dict(task_model.load(adapted / "run").params)
    found = flatten_dict(language_model.load(tmp_path / "back").params)
    assert found.keys() == expected.keys()
    for path, x in expected.items():
        np.testing.assert_allclose(found[path], x, atol=1e-6, err_msg="/".join(path))


@pytest.mark.parametrize("kind", ["transformers", "run"])
def test_a_model_trains_on_with_its_own_tokenizer_on_text(kind, adapted, tmp_path):
    folder = adapted / "base"
    if kind == "run":
        folder = tmp_path / "imported"
        carry(adapted / "base", folder)
    (tmp_path / "field.txt").write_text("一只猫。 Ein Kater. قطة.\n" * 200)
    config = adapt.get_config()
    config.init_from = str(folder)
    config.data.update(source="text", seq_len=32, batch_size=8)
    config.data.train = config.data.validation = str(tmp_path / "field.txt")
    config.train.update(num_steps=1, num_epochs=0.0)
    config.optimizer.peak_lr = 0.0
    config.eval.update(every_steps=1, batch_size=8)
    config.checkpoint.every_steps = 1

    assert pretrain.run(config.lock(), tmp_path / "run") == 0

    before, after = (
        hugging_face_params(adapted / "base"),
        language_model.load(tmp_path / "run").params,
    )
    for path, x in flatten_dict(after).items():
        np.testing.assert_array_equal(x, before[path], "/".join(path))
    (line,) = [x for x in (tmp_path / "run" / "metrics.jsonl").open() if "eval/loss" in x]
    assert json.loads(line)["eval/bits_per_byte"] > 0


def hugging_face_params(folder):
    again = folder.parent / "again"
    if not again.exists():
        carry(folder, again)
    return flatten_dict(language_model.load(again).params)


REFUSED = {
    "no base": ("peft", {}, "--config.base=DIR"),
    "no adapters": ("first", {"adapters": True}, "was trained without"),
    "no fine-tuning": ("imported", {"adapters": True}, "no fine-tuned run"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_carried_is_refused_and_leaves_nothing(name, adapted, tmp_path):
    source, settings, message = REFUSED[name]
    if source == "peft":
        carry(adapted / "run", tmp_path / source, adapters=True)
    elif source == "imported":
        carry(adapted / "base", tmp_path / source)
    else:
        (tmp_path / source).symlink_to(adapted / source)

    with pytest.raises(UserError, match=message) as caught:
        carry(tmp_path / source, tmp_path / "out", **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
