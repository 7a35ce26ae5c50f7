"""The experiment on folders of every kind, and on a run that was trained here.

Dimension key: N layers, H heads, L query length, M key length.
"""

import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch
import transformers

import launch
from configs import evaluate as evaluate_config
from configs import interpret as interpret_config
from configs import quickstart
from experiments import evaluate, interpret, pretrain
from lm.errors import UserError
from lm.formats.fields import Record
from lm.interpret import page, subject, token_losses
from lm.system import free_memory
from lm.tokenizers.tokenizers import ByteTokenizer
from tests import interpret_folders

TEXT = "The cat 北京 sat."


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders by kind, each with its model of transformers."""
    made = {}

    def folder(kind):
        if kind not in made:
            path = tmp_path_factory.mktemp(kind)
            made[kind] = path, interpret_folders.save(kind, path)
        return made[kind]

    return folder


def look(checkpoint, workdir, what, **settings):
    config = interpret_config.get_config(f"what={what}")
    config.update(checkpoint=str(checkpoint), texts=(TEXT,))
    config.update(settings)
    assert interpret.run(config.lock(), workdir) == 0
    values = json.loads((workdir / "interpret.json").read_text())
    return values, np.load(workdir / "interpret.npz")


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert", "classifier"])
def test_attention_is_that_of_transformers(kind, folders, tmp_path):
    folder, reference = folders(kind)
    values, arrays = look(folder, tmp_path, "attention")

    ids = [token["id"] for token in values["texts"][0]["tokens"]]
    with torch.no_grad():
        out = reference(input_ids=torch.tensor([ids]), output_attentions=True)
    expected = torch.stack(out.attentions)[:, 0].numpy()
    (probs_NHLM,) = arrays.values()

    assert ids[0] == 1 and (ids[-1] == 2) == (kind in ("bert", "classifier"))
    np.testing.assert_allclose(probs_NHLM, expected, atol=1e-5)
    np.testing.assert_allclose(probs_NHLM.sum(axis=-1), 1, atol=1e-5)


def test_layers_and_heads_are_chosen(folders, tmp_path):
    folder, _ = folders("gpt2")
    _, everything = look(folder, tmp_path / "all", "attention")
    _, some = look(folder, tmp_path / "some", "attention", layers=(1,), heads=(1, 0))

    (name,) = everything
    np.testing.assert_array_equal(some[name], everything[name][[1]][:, [1, 0]])


def test_an_encoder_with_a_decoder_has_three_maps(folders, tmp_path):
    folder, reference = folders("t5")
    (tmp_path / "texts.jsonl").write_text(json.dumps(dict(text=TEXT, target="the dog 中")))
    file = dict(texts=(), texts_file=str(tmp_path / "texts.jsonl"))
    values, arrays = look(folder, tmp_path / "out", "attention", **file)

    sides = values["texts"][0]
    ids = {side: torch.tensor([[x["id"] for x in sides[side]]]) for side in ("encoder", "decoder")}
    assert int(ids["decoder"][0, 0]) == 0 and int(ids["encoder"][0, -1]) == 2
    with torch.no_grad():
        out = reference(
            input_ids=ids["encoder"], decoder_input_ids=ids["decoder"], output_attentions=True
        )

    for site, theirs in {
        "encoder/layers/attention": out.encoder_attentions,
        "decoder/layers/attention": out.decoder_attentions,
        "decoder/layers/cross_attention": out.cross_attentions,
    }.items():
        expected = torch.stack(theirs)[:, 0].numpy()
        np.testing.assert_allclose(arrays[f"0/{site}/probs.out"], expected, atol=1e-5)


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """A run that was trained here for two steps, runs/quickstart of its folder."""
    config = quickstart.get_config("debug")
    config.data.update(source="text", **corpus)
    config.train.num_steps = 2
    config.eval.sample_tokens = 0
    workdir = tmp_path_factory.mktemp("trained") / "runs/quickstart"
    assert pretrain.run(config.lock(), workdir) == 0
    return workdir


def test_the_document_runs_as_it_stands(run, monkeypatch):
    text = (pathlib.Path(launch.__file__).parent / "docs/interpret.md").read_text()
    monkeypatch.chdir(run.parent.parent)

    names = {}
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "docs/interpret.md", "exec"), names)

    assert names["seen"]["layers.out"].shape[0] == names["model"].config.num_layers
    change = names["ablated"].logits() - names["output"].logits()
    assert np.abs(change).max() > 0


def test_losses_of_tokens_add_up_to_that_of_evaluation(run, tmp_path, capsys):
    text = "def f(x):\n    return x"
    (tmp_path / "text.txt").write_text(text)
    of_file = evaluate_config.get_config()
    of_file.checkpoint = str(run)
    of_file.data.update(source="text", validation=str(tmp_path / "text.txt"), seq_len=64)
    capsys.readouterr()
    assert evaluate.run(of_file.lock(), None) == 0
    lines = (line.split() for line in capsys.readouterr().out.splitlines())
    expected = next(float(line[1]) for line in lines if line[0] == "eval/loss")

    values, arrays = look(run, tmp_path / "out", "tokens", texts=(text,))

    found = values["found"][0]
    assert found["loss"] == pytest.approx(expected, abs=2e-6)  # As many digits as are printed.
    assert found["num_tokens"] == len(values["texts"][0]["tokens"]) - 1
    loss_L, entropy_L, rank_L = (arrays[f"0/{name}"] for name in ("loss", "entropy", "rank"))
    assert np.isnan(loss_L[0]) and found["loss_sum"] == pytest.approx(np.nansum(loss_L), rel=1e-6)
    vocab_size = json.loads((run / "config.json").read_text())["model"]["vocab_size"]
    assert entropy_L[1:].min() > 0 and entropy_L[1:].max() <= np.log(vocab_size)
    assert rank_L[1:].min() >= 1 and rank_L[1:].max() <= vocab_size


def test_an_encoder_guesses_each_token_behind_a_mask(folders, tmp_path):
    folder, reference = folders("bert")
    values, arrays = look(folder, tmp_path, "tokens")

    ids = torch.tensor([token["id"] for token in values["texts"][0]["tokens"]])
    inner = range(1, len(ids) - 1)
    masked = ids.repeat(len(inner), 1)
    for row, i in enumerate(inner):
        masked[row, i] = transformers.AutoTokenizer.from_pretrained(folder).mask_token_id
    with torch.no_grad():
        logits = reference(input_ids=masked).logits
    log_probs = torch.log_softmax(logits, dim=-1)
    expected = [-float(log_probs[row, i, ids[i]]) for row, i in enumerate(inner)]

    np.testing.assert_allclose(arrays["0/loss"][1:-1], expected, atol=1e-4)
    assert np.isnan(arrays["0/loss"][[0, -1]]).all()


def test_an_encoder_without_a_mask_token_guesses_nothing(folders):
    one = subject.open_subject(folders("bert")[0])
    (text,) = subject.read(one, Record("text 1", {"text": TEXT}), is_whole=True)
    without = one._replace(run=one.run._replace(tokenizer=ByteTokenizer()))
    with pytest.raises(UserError, match="its tokenizer has no mask token"):
        token_losses.token_losses(without, text)


def test_sites_are_listed_with_shapes_and_bytes_and_nothing_runs(
    folders, tmp_path, capsys, monkeypatch
):
    folder, _ = folders("classifier")
    monkeypatch.setattr(jax, "jit", lambda *_, **__: pytest.fail("something ran"))
    config = interpret_config.get_config("what=sites")
    config.update(checkpoint=str(folder))

    assert interpret.run(config, tmp_path / "out") == 0

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    named = {line[0]: line[1:] for line in lines if "x" in line}
    L = int(named["body/layers.out"][4])
    assert (
        named["body/layers.out"]
        == f"2 x 1 x {L} x 16 float32 {2 * L * 16 * 4 / 1000:.1f} kB".split()
    )
    assert named["body/layers/attention/probs.out"][:9] == f"2 x 1 x 2 x {L} x {L}".split()
    assert not (tmp_path / "out").exists()


MISTAKES = {
    "a layer that is not there": ("gpt2", "attention", dict(layers=(2,)), "layers=2 .* has 2"),
    "a head that is not there": ("gpt2", "attention", dict(heads=(5,)), "heads=5 .* has 2"),
    "no text": ("gpt2", "attention", dict(texts=()), "texts or texts_file"),
    "both": ("gpt2", "attention", dict(texts_file="x"), "texts or texts_file"),
    "an empty text": ("gpt2", "tokens", dict(texts=("",)), "text 1: .* empty"),
    "a file that is not there": ("gpt2", "tokens", dict(texts=(), texts_file="no.txt"), "no.txt"),
    "a long text": ("gpt2", "attention", dict(texts=("dog " * 99,)), "exceed the model's 64"),
    "nothing to predict": ("t5", "tokens", {}, "text 1 has no token to predict"),
    "tokens of a task": ("classifier", "tokens", {}, "classification, and predicts no tokens"),
    "no checkpoint": ("", "attention", {}, "checkpoint is not set"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(name, folders, tmp_path):
    kind, what, settings, message = MISTAKES[name]
    folder = folders(kind)[0] if kind else ""

    with pytest.raises(UserError, match=message) as error:
        look(folder, tmp_path / "out", what, **settings)

    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_mistake_ends_the_program_with_2(folders, tmp_path):
    folder, _ = folders("gpt2")
    flags = ["--config=configs/interpret.py:what=attention", f"--config.checkpoint={folder}"]
    flags += ["--config.texts=('a',)", "--config.layers=(9,)", f"--workdir={tmp_path / 'out'}"]

    ended = subprocess.run(
        [sys.executable, launch.__file__, *flags], capture_output=True, text=True
    )

    assert ended.returncode == 2
    assert ended.stderr.strip().splitlines()[-1].startswith("error: layers=9 is not there")
    assert not (tmp_path / "out").exists()


def test_what_has_no_room_is_refused_with_its_bytes(folders, tmp_path, monkeypatch):
    folder, _ = folders("gpt2")
    monkeypatch.setattr(free_memory, "free_bytes", lambda: 4000)
    with pytest.raises(UserError, match=r"takes 4\.1 kB, and 4\.0 kB of memory are free"):
        look(folder, tmp_path / "out", "attention")  # 2 x 2 x 16 x 16 x 4 bytes.
    monkeypatch.undo()
    monkeypatch.setattr(page, "MAX_BYTES", 9000)
    with pytest.raises(UserError, match=r"page would have [\d,]+ bytes, and at most 9,000"):
        look(folder, tmp_path / "out", "attention")
    assert not (tmp_path / "out").exists()


def test_padding_changes_no_number(folders, tmp_path, monkeypatch):
    folder, _ = folders("classifier")
    _, before = look(folder, tmp_path / "a", "attention")
    monkeypatch.setattr(subject, "_MULTIPLE", 40)
    _, after = look(folder, tmp_path / "b", "attention")

    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, atol=1e-6)
