"""What ends a text, by the files of a folder of `transformers`."""

import json

import pytest
import tokenizers as hf
from tokenizers import models, pre_tokenizers

from lm.errors import UserError
from lm.tokenizers import stop_ids, tokenizers

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
        " asks for min_length=3, which is not done here; and for what counts only where it is "
        "given: --config.repetition_penalty=1.05",
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
    "of beams": ({"early_stopping": True, "diversity_penalty": 0.5, "num_beam_groups": 2}, ""),
    "every default": (
        {"max_length": 20, "num_return_sequences": 1, "use_cache": True, "bos_token_id": 0},
        "",
    ),
    "all else": (
        {
            "max_length": 99,
            "num_return_sequences": 2,
            "watermarking_config": {"bias": 2.5},
            "forced_bos_token_id": 4,
            "unheard_of": "x" * 99,
            "num_beams": 2,
            "early_stopping": True,
        },
        " asks for max_length=99, num_return_sequences=2, watermarking_config={'bias': 2.5}, "
        f"forced_bos_token_id=4, unheard_of={'x' * 60}..., early_stopping=True, which is not done "
        "here; and for what counts only where it is given: --config.num_beams=2",
    ),
    "no such token": (
        {"eos_token_id": [3, 6, 10**30]},
        f" asks for an end at 6, {10**30}, which is no token of its tokenizer's",
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_a_folder_asks_for_besides_is_one_line(name, tmp_path):
    settings, line = ASKED[name]

    found = stop_ids.unused_settings(write(tmp_path, generation_config=settings), len(NAMES))

    assert found == (f"{tmp_path / stop_ids.FILE}{line}" if line else "")


def test_what_the_model_says_in_vain_is_said_of_its_file(tmp_path):
    write(tmp_path, config={"eos_token_id": 10**30})
    line = f"{tmp_path / 'config.json'} asks for an end at {10**30}, which is no token"
    assert stop_ids.unused_settings(tmp_path, len(NAMES)).startswith(line)
    write(tmp_path, config={"eos_token_id": "x"})
    with pytest.raises(UserError, match=r"config\.json: eos_token_id='x' must be an id") as caught:
        tokenizers.load_file(tmp_path)
    assert stop_ids.FILE not in str(caught.value)


def test_an_export_keeps_all_but_ids_that_it_names_itself(tmp_path):
    ids = {f"{name}_token_id": 1 for name in ("bos", "eos", "pad", "decoder_start")}
    kept = {"forced_bos_token_id": 4, "forced_eos_token_id": 1, "top_k": 3}
    write(tmp_path, generation_config=ids | kept | {"transformers_version": "5"})
    assert stop_ids.unread(tmp_path) == kept
