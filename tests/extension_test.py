"""A model with a longer vocabulary: what it was, and rows for all that is new."""

import functools
import json
import re

import jax
import numpy as np
import pytest
import torch
import transformers as t
from flax.traverse_util import flatten_dict

from configs import adapt, quickstart
from configs import convert as convert_config
from configs import extend as extend_config
from experiments import convert, extend, pretrain
from lm.errors import UserError
from lm.loading import language_model, run_folder
from lm.models.families import family_of
from lm.models.parameters import TABLES
from lm.tokenizers import extension
from lm.tokenizers.tokenizers import ByteTokenizer
from tests.interop.parity_test import theirs
from tests.tiny_tokenizers import CORPUS, tokenizer_of
from tests.tokenizers.extension_test import TEXT

SIZES = dict(num_hidden_layers=1, num_attention_heads=2, hidden_size=8, intermediate_size=12)
NUM = 20


def _gpt2(vocab_size):
    sizes = dict(n_positions=64, n_embd=8, n_layer=1, n_head=2)
    return t.GPT2LMHeadModel(t.GPT2Config(vocab_size=vocab_size, **sizes))


def _bert(vocab_size):
    return t.BertForMaskedLM(t.BertConfig(vocab_size=vocab_size, **SIZES))


def _llama(vocab_size):
    config = t.LlamaConfig(vocab_size=vocab_size, max_position_embeddings=64, **SIZES)
    return t.LlamaForCausalLM(config)


def _t5(vocab_size):
    sizes = dict(d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2)
    config = t.T5Config(vocab_size=vocab_size, feed_forward_proj="gated-gelu", **sizes)
    config.tie_word_embeddings = config.scale_decoder_outputs = False
    model = t.T5ForConditionalGeneration(config)
    model.encoder.embed_tokens = model.decoder.embed_tokens = model.shared
    return model


# The family, its tokenizer, and rows of its tables that no token uses: none, a few, more than all.
FAMILIES = {
    "gpt2": (_gpt2, "gpt2", 0),
    "bert": (_bert, "bert", 0),
    "llama": (_llama, "llama", 7),
    "t5": (_t5, "t5", 30),
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for i, text in enumerate(TEXT):
        (folder / f"{i}.txt").write_text(text)
    return f"{folder}/*.txt"


def run_extend(source, target, texts, **settings):
    config = extend_config.get_config()
    config.update(source=str(source), target=str(target), text=texts, num_pieces=NUM, **settings)
    assert extend.run(config, None) == 0
    return target


def run_convert(source, target):
    config = convert_config.get_config()
    config.update(source=str(source), target=str(target))
    assert convert.run(config, None) == 0
    return target


@pytest.fixture(scope="module")
def source_of(tmp_path_factory):
    """family -> a folder of `transformers`, with weights so large that an error would show."""

    @functools.cache
    def make(family):
        torch.manual_seed(0)
        make_model, kind, num_unused = FAMILIES[family]
        tokenizer = tokenizer_of(kind)
        model = make_model(tokenizer.vocab_size + num_unused)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.15 * torch.randn_like(parameter))
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        if family == "t5":  # As version 4 of `transformers` wrote it.
            config = json.loads((folder / "config.json").read_text())
            config["tie_word_embeddings"] = False
            (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_bytes(tokenizer.files["tokenizer.json"])
        names = {"tokenizer_class": "PreTrainedTokenizerFast"}
        (folder / "tokenizer_config.json").write_text(json.dumps(names))
        return folder

    return make


@pytest.fixture(scope="module", params=FAMILIES)
def grown(request, source_of, texts, tmp_path_factory):
    """A model before and after, opened, and the folder that it is in now."""
    source = source_of(request.param)
    target = run_extend(source, tmp_path_factory.mktemp("grown") / "run", texts)
    return language_model.load(source), language_model.load(target), target


def outputs(run, tokens_BL):
    """The hidden states that logits are made of, and these."""
    ones_BL = np.ones_like(tokens_BL)
    if family_of(run.model).architecture == "encoder_decoder":
        inputs = (tokens_BL, ones_BL, tokens_BL[:, :5], ones_BL[:, :5])
    else:
        inputs = (tokens_BL, np.arange(tokens_BL.shape[1])[None], ones_BL)
    output = jax.jit(run.model.apply)({"params": run.params}, *inputs)
    return output.hidden_BLD, output.logits()


def ids_of(run, texts, length=24):
    ids = np.concatenate(run.tokenizer.encode_batch(texts))
    return ids[None, :length]


def test_old_rows_stay_and_new_ones_are_the_mean_of_their_pieces(grown):
    old, new, target = grown
    num_old = old.tokenizer.vocab_size
    before, after = flatten_dict(old.params), flatten_dict(new.params)
    _, old_ids = extension.extend(old.tokenizer, TEXT, NUM)

    assert after.keys() == before.keys()
    assert json.loads((target / "config.json").read_text())["num_old_tokens"] == num_old
    assert new.config["model"]["vocab_size"] == max(
        num_old + NUM, old.config["model"]["vocab_size"]
    )
    tables = {path for path in after if path[-1] in TABLES}
    for path in before.keys() - tables:
        np.testing.assert_array_equal(after[path], before[path], "/".join(path))
    for path in tables:
        was, now = np.asarray(before[path]), np.asarray(after[path])
        np.testing.assert_array_equal(now[:num_old], was[:num_old], "/".join(path))
        for i, ids in enumerate(old_ids):
            mean = was[list(ids)].mean(axis=0)
            np.testing.assert_allclose(now[num_old + i], mean, atol=1e-6, err_msg="/".join(path))
        np.testing.assert_array_equal(now[num_old + NUM :], was[num_old + NUM :])


def test_old_text_is_read_the_same_to_the_bit(grown):
    old, new, _ = grown
    texts = [CORPUS[0], CORPUS[1]]
    ids_BL = ids_of(old, texts)
    np.testing.assert_array_equal(ids_of(new, texts), ids_BL)

    (hidden, logits), (hidden_now, logits_now) = outputs(old, ids_BL), outputs(new, ids_BL)

    # A product with a larger table may be added up in another order.
    np.testing.assert_array_equal(hidden_now, hidden)
    num_old = old.tokenizer.vocab_size
    np.testing.assert_allclose(logits_now[..., :num_old], logits[..., :num_old], atol=1e-6)


def test_transformers_reads_the_export_and_says_the_same(grown, tmp_path):
    _, new, target = grown
    folder = run_convert(target, tmp_path / "exported")

    kinds = {"bert": t.AutoModelForMaskedLM, "t5": t.AutoModelForSeq2SeqLM}
    kind = kinds.get(new.config["model"]["name"], t.AutoModelForCausalLM)
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    tokenizer = t.PreTrainedTokenizerFast.from_pretrained(folder)

    assert not any(info.values()), info
    for text in (TEXT[0], CORPUS[0]):
        (ids,) = new.tokenizer.encode_batch([text])
        assert tokenizer(text, add_special_tokens=False).input_ids == ids.tolist()
    ids_BL = ids_of(new, [TEXT[0]])
    assert ids_BL.max() >= new.tokenizer.vocab_size - NUM
    expected = theirs(model.eval(), ids_BL, np.ones_like(ids_BL), ids_BL[:, :5])
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(outputs(new, ids_BL)[1], expected, atol=1e-4)


def test_rows_are_those_that_init_names(source_of, texts, tmp_path):
    rows, num_old = {}, tokenizer_of("llama").vocab_size
    for name in extend.INITS:
        settings = dict(init=name, multiple_of=64)
        target = run_extend(source_of("llama"), tmp_path / name, texts, **settings)
        rows[name] = language_model.load(target).params["output_embedding"]
        assert len(rows[name]) == 320
    old = rows["mean"][:num_old]

    mean = np.broadcast_to(old.mean(axis=0), (NUM, 8))
    np.testing.assert_allclose(rows["mean"][num_old : num_old + NUM], mean, atol=1e-6)
    drawn = rows["random"][num_old : num_old + NUM]
    assert len(np.unique(drawn, axis=0)) == NUM
    assert 0.01 < drawn.std() < 0.03  # As the family draws its first weights.
    focus, pieces = (rows[n][num_old : num_old + NUM] for n in ("focus", "mean_of_pieces"))
    assert np.any(focus != pieces)


def test_a_run_grows_as_the_folder_that_it_was(source_of, texts, tmp_path):
    source = source_of("gpt2")
    run = run_convert(source, tmp_path / "run")

    ours, theirs = (
        language_model.load(run_extend(x, tmp_path / name, texts))
        for x, name in ((run, "of run"), (source, "of folder"))
    )

    assert ours.tokenizer.fingerprint == theirs.tokenizer.fingerprint
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


def test_the_text_may_be_what_curation_kept(source_of, texts, tmp_path):
    files = {"kept.jsonl": TEXT, "held_out.jsonl": ["held out"]}
    splits = {}
    for split, (name, kept) in zip(("train", "validation"), files.items(), strict=True):
        path = tmp_path / "corpus" / split / name
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in kept))
        splits[split] = {name: {"num_bytes": path.stat().st_size}}
    meta = {"splits": splits, "fingerprint": ""}
    (tmp_path / "corpus" / "corpus.json").write_text(json.dumps(meta))

    of_files, of_corpus = (
        language_model.load(run_extend(source_of("gpt2"), tmp_path / name, text)).tokenizer
        for name, text in {"files": texts, "curated": f"curated:{tmp_path}"}.items()
    )

    assert of_files.fingerprint == of_corpus.fingerprint


def test_a_fertility_says_how_many_pieces_there_are(source_of, texts, tmp_path, capsys):
    said = {}
    for target in (0.0, 1.5, 0.1):
        capsys.readouterr()
        made = run_extend(
            source_of("gpt2"), tmp_path / f"run-{target}", texts, target_fertility=target
        )
        said[target] = capsys.readouterr().out
        num_new = language_model.load(made).tokenizer.vocab_size - 265
        after = float(re.search(r"before, ([\d.]+) now", said[target])[1])
        assert num_new < NUM and 1.4 < after <= 1.5 if target == 1.5 else num_new == NUM

    not_reached = f"target_fertility=0.1 is not reached; raise num_pieces={NUM}"
    assert [not_reached in line for line in said.values()] == [False, False, True]


def test_a_trained_model_goes_on_with_mixtures_as_others_begin():
    arg = "sources=old+new"

    blocks = [module.get_config(arg).data.sources for module in (adapt, quickstart)]

    assert blocks[0] == blocks[1] and set(blocks[0]) == {"old", "new"}


def adapted(init_from, workdir, texts, **train):
    config = adapt.get_config()
    config.init_from = str(init_from)
    config.data.update(source="text", train=texts, validation=texts, seq_len=16, batch_size=4)
    config.data.update(add_bos=False, add_eos=False)
    config.train.update(num_steps=2, num_epochs=0.0, **train)
    config.optimizer.update(peak_lr=0.1, weight_decay=0.5)
    config.eval.update(every_steps=2, batch_size=4, sample_tokens=0, compressors=False)
    config.checkpoint.every_steps = 2
    assert pretrain.run(config.lock(), workdir) == 0
    return flatten_dict(language_model.load(workdir).params)


def test_new_rows_are_trained_alone(source_of, texts, tmp_path):
    grown = run_extend(source_of("gpt2"), tmp_path / "grown", texts)
    before, num_old = flatten_dict(language_model.load(grown).params), 265

    after = adapted(grown, tmp_path / "run", texts, only="new_rows")

    assert run_folder.num_old_tokens(str(tmp_path / "run")) == num_old  # It may train on.
    for path, x in before.items():
        if path[-1] in TABLES:
            assert np.all(np.any(after[path][num_old:] != x[num_old:], axis=1))
            np.testing.assert_array_equal(after[path][:num_old], x[:num_old])
        else:
            np.testing.assert_array_equal(after[path], x, "/".join(path))


@pytest.mark.parametrize("init_from", ["", "folder", "run"])
def test_without_new_rows_they_cannot_be_trained(init_from, source_of, texts, tmp_path):
    if init_from == "folder":
        init_from = source_of("gpt2")
    if init_from == "run":
        init_from = run_convert(source_of("gpt2"), tmp_path / "imported")
    config = adapt.get_config()
    config.init_from = str(init_from)
    if not init_from:
        config.model = language_model.load(source_of("gpt2")).config["model"]
        config.tokenizer = {"kind": "file", "path": str(source_of("gpt2") / "tokenizer.json")}
    config.data.update(source="text", train=texts, validation=texts, seq_len=16, batch_size=4)
    config.train.only = "new_rows"

    with pytest.raises(UserError, match=r"train\.only=new_rows: init_from=.* has no new rows"):
        pretrain.run(config, tmp_path / "run")

    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bytes") / "run"
    block = dict(name="gpt2", attention="auto", dtype="auto", vocab_size=259)
    convert.write_run(folder, convert.Model(block, {"x": np.zeros(1)}, "float32", ByteTokenizer()))
    return folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": ""}, "name both folders"),
        ({"source": "nowhere"}, "nowhere does not exist"),
        ({"text": ""}, "text"),
        ({"text": "nothing/*.txt"}, "text='nothing/.*matches no file"),
        ({"text": "short.txt"}, "gives no new piece"),
        ({"init": "best"}, "init='best'.*mean_of_pieces"),
        ({"num_pieces": 0}, "num_pieces=0"),
        ({"target_fertility": 9.5}, r"target_fertility=9.5: the text has \d.\d+ tokens a char"),
        ({"target": "there"}, "target=there exists already"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(
    settings, message, source_of, texts, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("山")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    files = sorted(tmp_path.rglob("*"))
    config = extend_config.get_config()
    config.update(source=str(source_of("gpt2")), target="new", text=texts)
    config.update(settings)

    with pytest.raises(UserError, match=message):
        extend.run(config, None)

    assert sorted(tmp_path.rglob("*")) == files
