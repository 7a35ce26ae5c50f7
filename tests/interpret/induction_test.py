"""Scores of heads beside attention of transformers on the same tokens.

Dimension key: N layers, B sequences, H heads.
"""

import dataclasses
import json

import numpy as np
import pytest
import torch

from configs import interpret as interpret_config
from experiments import interpret
from lm.errors import UserError
from lm.interpret import subject
from lm.interpret.induction import induction
from tests import interpret_folders


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    reference = interpret_folders.save("gpt2", folder)
    return subject.open_subject(folder), reference


def test_scores_are_those_of_attention_of_transformers(opened, tmp_path):
    one, reference = opened
    config = interpret_config.get_config("what=induction")
    config.update(checkpoint=str(one.folder), num_sequences=3, sequence_len=7, seed=5)

    assert interpret.run(config.lock(), tmp_path) == 0

    (found,) = json.loads((tmp_path / "interpret.json").read_text())["found"]
    tokens_BL = np.load(tmp_path / "interpret.npz")["0/tokens"]
    copying, previous, first, second = [], [], [], []
    for tokens_L in torch.tensor(tokens_BL).long():
        with torch.no_grad():
            out = reference(input_ids=tokens_L[None], output_attentions=True)
        losses = -torch.log_softmax(out.logits[0], dim=-1)
        probs = [of_layer[0] for of_layer in out.attentions]
        copying += [[p[:, i, i - 6].tolist() for p in probs] for i in range(7, 14)]
        previous += [[p[:, i, i - 1].tolist() for p in probs] for i in range(1, 14)]
        first += [float(losses[i - 1, tokens_L[i]]) for i in range(1, 7)]
        second += [float(losses[i - 1, tokens_L[i]]) for i in range(8, 14)]

    np.testing.assert_array_equal(tokens_BL[:, :7], tokens_BL[:, 7:])
    assert all(len({*row}) == 7 and min(row) > 3 for row in tokens_BL[:, :7].tolist())
    assert len({*map(tuple, tokens_BL.tolist())}) == 3
    np.testing.assert_allclose(found["copying"], np.mean(copying, axis=0), atol=1e-5)
    np.testing.assert_allclose(found["previous"], np.mean(previous, axis=0), atol=1e-5)
    losses = found["first_loss"], found["second_loss"]
    np.testing.assert_allclose(losses, [np.mean(first), np.mean(second)], atol=1e-4)


def test_what_cannot_be_read_twice_is_one_line(opened, tmp_path_factory):
    one, _ = opened
    draw = lambda one, length: induction(one, num_sequences=1, sequence_len=length, seed=0)
    with pytest.raises(UserError, match="64 positions; give 32 at most"):
        draw(one, 33)
    longer = dataclasses.replace(one.model.config, max_len=4096)
    with pytest.raises(UserError, match=r"exceeds the \d+ tokens of the vocabulary"):
        draw(one._replace(model=one.model.clone(config=longer)), 2000)
    for kind in ("bert", "classifier", "t5"):
        folder = tmp_path_factory.mktemp(kind)
        interpret_folders.save(kind, folder)
        with pytest.raises(UserError, match="is no decoder of language"):
            draw(subject.open_subject(folder), 4)
