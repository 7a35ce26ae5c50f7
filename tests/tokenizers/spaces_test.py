import json
import re

import numpy as np
import pytest
import tokenizers as hf
from tokenizers import normalizers

from lm.tokenizers import tokenizers
from tests.tiny_tokenizers import KINDS, TEXTS, tokenizer_of

with_spaces = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bert"])


def text_of(tokenizer, ids):
    return "".join(tokenizer.text_of(int(i)) for i in ids)


@with_spaces
@pytest.mark.parametrize("text", ["the", " the", "  the", "the  ", " "])
def test_a_text_inside_another_keeps_its_spaces(kind, text):
    tokenizer = tokenizer_of(kind)
    said = text_of(tokenizer, tokenizer.encode_inside([text])[0])
    if kind in ("t5", "xlm-r", "sentencepiece nfkc"):  # Their normalizers join spaces.
        said, text = (re.sub(" +", " ", x) for x in (said, text))
    assert said == text


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "gpt2", "bert"])
def test_without_rules_for_spaces_a_text_is_encoded_as_ever(kind):
    tokenizer = tokenizer_of(kind)
    for inside, alone in zip(
        tokenizer.encode_inside(TEXTS), tokenizer.encode_batch(TEXTS), strict=True
    ):
        np.testing.assert_array_equal(inside, alone)


def changed(kind, change):
    """A tokenizer whose tokenizer.json `change` has edited."""
    parts = json.loads(tokenizer_of(kind)._tokenizer.to_str())
    change(parts)
    return tokenizers.HuggingFaceTokenizer({"tokenizer.json": json.dumps(parts).encode()})


def test_a_normalizer_that_strips_leaves_the_space():
    def strip(parts):
        tokenizer = hf.Tokenizer(hf.models.BPE())
        tokenizer.normalizer = normalizers.Strip()
        parts["normalizer"]["normalizers"].append(json.loads(tokenizer.to_str())["normalizer"])

    tokenizer = changed("t5", strip)
    assert text_of(tokenizer, tokenizer.encode_inside([" the"])[0]) == " the"
    assert text_of(tokenizer, tokenizer.encode_inside(["the"])[0]) == "the"


def test_a_space_by_the_name_that_older_files_use():
    def rename(parts):
        parts["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "\u2581",
            "add_prefix_space": True,
        }

    tokenizer = changed("t5", rename)
    assert text_of(tokenizer, tokenizer.encode_batch(["the"])[0]) == " the"
    assert text_of(tokenizer, tokenizer.encode_inside(["the"])[0]) == "the"
