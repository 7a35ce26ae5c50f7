import numpy as np
import pytest
import torch
import transformers

from lm.errors import UserError
from lm.inference.embedding import Embedder
from lm.loading.run import load

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "e"]
TEXTS = ["a b c", "d", "e e d c b a a b", "b"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        **sizes, vocab_size=len(WORDS), max_position_embeddings=32, initializer_range=0.5
    )
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    return folder


def reference(folder, pooling):
    model = transformers.BertModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in TEXTS:
        with torch.no_grad():
            x_LD = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        x_D = x_LD.mean(0) if pooling == "mean" else x_LD[0]
        rows.append((x_D / x_D.norm()).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_vectors_are_those_of_transformers(folder, pooling):
    embed = Embedder(load(folder), pooling=pooling)

    found = embed([embed.ids(f"text {i}", text) for i, text in enumerate(TEXTS)])

    np.testing.assert_allclose(found, reference(folder, pooling), atol=1e-6)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)


def test_what_cannot_be_embedded_is_refused(folder):
    run = load(folder)
    embed = Embedder(run, pooling="mean")
    with pytest.raises(UserError, match="a text of 102 tokens exceeds the model's 32"):
        embed([embed.ids("long", "a " * 100)])
    with pytest.raises(UserError, match="pooling='last'"):
        Embedder(run, pooling="last")
    decoder = run._replace(config=run.config | {"model": run.config["model"] | {"name": "gpt2"}})
    with pytest.raises(UserError, match="which makes no vectors of texts"):
        Embedder(decoder, pooling="mean")
