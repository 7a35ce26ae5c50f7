"""Greedy decoding and beam search beside `transformers`, with the same random weights."""

import collections
import json

import jax
import numpy as np
import pytest
import torch
import transformers as t

from lm.generation import beam, sampling
from tests.interop.parity_test import _LLAMA, V, load, t5

PROMPTS = [[5, 9, 11], [7], [3, 8, 2, 40, 13, 22, 31], [19, 4]]
MAKERS = {
    "gpt2": lambda: t.GPT2LMHeadModel(
        t.GPT2Config(vocab_size=V, n_positions=64, n_embd=24, n_layer=2, n_head=3)
    ),
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**_LLAMA)),
    "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**_LLAMA, sliding_window=5)),
    "t5": lambda: t5(gated=True, tied=False),
}


@pytest.fixture(scope="module", params=MAKERS)
def pair(request, tmp_path_factory):
    torch.manual_seed(1)
    reference = MAKERS[request.param]().eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.25 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("hf")
    reference.save_pretrained(folder)
    if request.param == "t5":  # As version 4 wrote it; and the output is not the embedding.
        config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
        (folder / "config.json").write_text(json.dumps(config))
    model, params = load(folder)
    # A token that is often written ends what is written, so that some end early.
    written = [theirs(reference, prompt, -1)[0] for prompt in PROMPTS]
    eos = collections.Counter(token for tokens in written for token in tokens[2:]).most_common(1)
    return reference, model, params, eos[0][0]


def theirs(reference, prompt, eos, **settings):
    """New tokens of each returned sequence, up to the end-of-text token."""
    is_decoder = not reference.config.is_encoder_decoder
    output = reference.generate(
        torch.tensor([prompt]),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=0,
        decoder_start_token_id=None if is_decoder else 0,
        **settings,
    )
    sequences = []
    for row in output.tolist():
        row = row[len(prompt) :] if is_decoder else row[1:]
        sequences.append(row[: row.index(eos)] if eos in row else row)
    return sequences


def test_greedy_is_that_of_transformers(pair):
    reference, model, params, eos = pair

    ours = sampling.generate(
        model,
        params,
        PROMPTS,
        jax.random.key(0),
        vocab_size=V,
        max_new_tokens=12,
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        stop_ids=[eos],
    )

    assert ours == [theirs(reference, prompt, eos)[0] for prompt in PROMPTS]


@pytest.mark.parametrize(
    ("length_penalty", "early_stopping"), [(1.0, False), (0.0, False), (2.0, False), (-0.5, True)]
)
def test_beams_are_those_of_transformers(pair, length_penalty, early_stopping):
    reference, model, params, eos = pair
    settings = dict(num_beams=3, length_penalty=length_penalty, early_stopping=early_stopping)

    ours = beam.search(
        model, params, PROMPTS, vocab_size=V, max_new_tokens=12, stop_ids=[eos], **settings
    )

    for prompt, hypotheses in zip(PROMPTS, ours, strict=True):
        expected = theirs(reference, prompt, eos, num_return_sequences=3, **settings)
        assert [h.tokens for h in hypotheses] == expected
        assert np.all(np.diff([h.score for h in hypotheses]) <= 0)
    if length_penalty < 2:  # Which makes long ones win.
        assert any(len(h.tokens) < 12 for hypotheses in ours for h in hypotheses)


def test_a_prompt_gets_the_same_whatever_batch_it_is_in(pair):
    _, model, params, eos = pair
    settings = dict(num_beams=2, length_penalty=1.0, early_stopping=False)
    find = lambda prompts, batch_size: beam.search(
        model,
        params,
        prompts,
        vocab_size=V,
        max_new_tokens=6,
        stop_ids=[eos],
        batch_size=batch_size,
        **settings,
    )

    together = find(PROMPTS, 4)

    for batch_size in (1, 3):
        apart = find(PROMPTS, batch_size)
        assert [[h.tokens for h in x] for x in apart] == [[h.tokens for h in x] for x in together]
