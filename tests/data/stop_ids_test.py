"""What ends a text, by the files of a folder of `transformers`."""

import json

import pytest
import tokenizers as hf
from tokenizers import models, pre_tokenizers

from lm.data import stop_ids, tokenizers
from lm.errors import UserError

NAMES = ["<s>", "</s>", "<|turn|>", "<|stop|>", "a", "b"]


def write(folder, **files):
    """A folder whose tokenizer ends texts with </s>, and has these JSON files besides."""
    library = hf.Tokenizer(models.WordLevel({name: i for i, name in enumerate(NAMES)}, "a"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.add_special_tokens(NAMES[:4])
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / f"{name}.json").write_text(text)
    return folder


FOLDERS = {
    "nothing": ({}, (1,)),
    "an id": ({"generation_config": {"eos_token_id": 3}}, (1, 3)),
    "the tokenizer's own": ({"generation_config": {"eos_token_id": 1}}, (1,)),
    "several": ({"generation_config": {"eos_token_id": [3, 1, 2]}}, (1, 3, 2)),
    "null": ({"generation_config": {"eos_token_id": None}}, (1,)),
    "none said": ({"generation_config": {"do_sample": True}}, (1,)),
    "the model's": ({"config": {"eos_token_id": [2]}}, (1, 2)),
    "both": ({"config": {"eos_token_id": 2}, "generation_config": {"eos_token_id": 3}}, (1, 3)),
    "only one counts": ({"config": {"eos_token_id": 2}, "generation_config": {}}, (1,)),
    "no such token": ({"generation_config": {"eos_token_id": [3, 50256]}}, (1, 3)),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_text_ends_with_what_the_folder_names_and_a_run_keeps_it(name, tmp_path):
    files, expected = FOLDERS[name]

    tokenizer = tokenizers.load_file(write(tmp_path, **files) / "tokenizer.json")
    tokenizer.save(tmp_path / "run")

    again = tokenizers.load(tmp_path / "run")
    assert tokenizer.stop_ids == again.stop_ids == expected


def test_texts_have_the_same_ids_whatever_ends_them(tmp_path):
    plain = tokenizers.load_file(write(tmp_path) / "tokenizer.json")

    write(tmp_path, generation_config={"eos_token_id": 3})
    other = tokenizers.load_file(tmp_path / "tokenizer.json")

    assert plain.stop_ids != other.stop_ids
    assert plain.fingerprint == other.fingerprint


DAMAGED = {
    "no JSON": "{",
    "no object": "[1]",
    "a name": {"eos_token_id": "</s>"},
    "a truth": {"eos_token_id": [True]},
    "below 0": {"eos_token_id": [-1]},
    "a float": {"eos_token_id": 1.5},
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_in_one_line(name, tmp_path):
    write(tmp_path, generation_config=DAMAGED[name])

    with pytest.raises(UserError, match=stop_ids.FILE) as caught:
        tokenizers.load_file(tmp_path / "tokenizer.json")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


ASKED = {
    "nothing": ({"do_sample": True, "num_beams": 1, "eos_token_id": 3}, ""),
    "not done": (
        {"repetition_penalty": 1.05, "temperature": 0.6, "min_length": 3, "length_penalty": 2.0},
        " asks for repetition_penalty=1.05, min_length=3, which is not done here",
    ),
    "options": (
        {"do_sample": True, "temperature": 0.6, "top_p": 0.9},
        " asks for what counts only where it is given: --config.temperature=0.6 --config.top_p=0.9",
    ),
    "both": (
        {"no_repeat_ngram_size": 3, "num_beams": 4, "length_penalty": 2.0},
        " asks for no_repeat_ngram_size=3, which is not done here; and for what counts only where "
        "it is given: --config.num_beams=4 --config.length_penalty=2.0",
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_a_folder_asks_for_besides_is_one_line(name, tmp_path):
    settings, line = ASKED[name]

    found = stop_ids.unused_settings(write(tmp_path, generation_config=settings))

    assert found == (f"{tmp_path / stop_ids.FILE}{line}" if line else "")
