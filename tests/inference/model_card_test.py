"""The model card of an export: what the Hub reads of it, and that nothing in it is invented."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard

from configs import convert as convert_config
from configs import families
from experiments import convert
from lm.errors import UserError
from lm.models.factory import make_model
from lm.models.families import param_shapes
from tests.exported_pipelines_test import TINY, write_run

METRICS = [
    {"step": 0, "run/num_steps": 2},
    {"step": 1, "eval/loss": 3.25, "eval/bits_per_byte": 1.718281828459045, "train/loss": 3.5},
    {"step": 1, "training_set/loss": 3.125, "eval/en/loss": None},
    {"step": 2, "eval/loss": 2.0625},
]


def random_run(folder, **changes):
    """A run at step 1, of which a later step was evaluated, too."""
    config = families.get_config("family=gpt2,tokenizer=bytes")
    config.model.update({k: v for k, v in TINY.items() if k in config.model})
    config.update_from_flattened_dict(changes)
    shapes = param_shapes(make_model(config.model, causal=True))
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    run = write_run(folder / "run", config, params, {"num_tokens": 0})
    (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in METRICS))
    return run


def exported(source, target, **settings):
    config = convert_config.get_config()
    config.update(source=str(source), target=str(target), **settings)
    assert convert.run(config, None) == 0
    return target


def text_of(folder):
    return (folder / "README.md").read_text()


def numbers(text):
    found = re.findall(r"(?<![\w.])-?\d[\d.]*(?:e[-+]?\d+)?(?!\w)", text)
    return {n if n.count(".") > 1 else float(n.rstrip(".")) for n in found}


FORMATS = {
    "transformers": {},
    "gguf": {"format": "gguf"},
    "stablehlo": {"format": "stablehlo", "prompt_lens": (8,)},
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_number_is_in_a_file_of_the_run(name, tmp_path):
    run = random_run(tmp_path)
    result = {"step": 1, "metrics": {"f1": 0.875}, "baselines": {"the commonest": {"f1": 0.53}}}
    (run / "result.json").write_text(json.dumps(result))

    text = text_of(exported(run, tmp_path / "out", **FORMATS[name]))

    files = ("config.json", "provenance.json", "metrics.jsonl", "result.json")
    known = set().union(*(numbers((run / file).read_text()) for file in files))
    assert numbers(text) <= known, numbers(text) - known
    assert numbers(f"{text} 77.5") - known == {77.5}
    start = json.loads((run / "provenance.json").read_text())[-1]
    for fact in ("1.718281828459045", "3.125", "0.53", start["git_commit"], start["time"]):
        assert fact in text
    assert "2.0625" not in text  # Of a later step.
    assert "FOLDER" in text or "llama-server --model model-F16.gguf" in text or "loader.py" in text


def test_the_hub_reads_its_head(tmp_path):
    run = random_run(tmp_path)
    stated = {"licence": "apache-2.0", "languages": ("en", "zh")}

    card = ModelCard.load(exported(run, tmp_path / "out", **stated) / "README.md")

    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert (data.license, data.language, data.tags) == ("apache-2.0", ["en", "zh"], ["gpt2"])
    found = {x.metric_type: (x.metric_value, x.dataset_name) for x in data.eval_results}
    assert found == {
        "loss": (3.25, "python_stdlib"),
        "bits_per_byte": (1.718281828459045, "python_stdlib"),
    }
    assert "Its licence is apache-2.0." in card.text


def test_nothing_is_said_that_nobody_stated(tmp_path):
    run = random_run(tmp_path)
    for name in ("metrics.jsonl", "provenance.json"):
        (run / name).unlink()

    card = ModelCard.load(exported(run, tmp_path / "out") / "README.md")

    assert set(card.data.to_dict()) == {"library_name", "pipeline_tag", "tags"}
    assert "Nobody stated its licence. Nobody stated its languages." in card.text
    assert card.text.count("None.") == 2


HEADS = {
    "---\nlicense: mit\nlanguage: de\n---\n": ("mit", ["de"]),
    "---\nlicense: [mit]\nlanguage: [zh, 5, 'a b']\n---\n": (None, ["zh"]),
    "---\nlicense: !!python/object:os.system {}\n---\n": (None, None),
    "---\n- a\n---\n": (None, None),
    "no head": (None, None),
}


@pytest.mark.parametrize("head", HEADS)
def test_what_an_origin_states_goes_along(head, tmp_path):
    theirs = exported(random_run(tmp_path), tmp_path / "theirs")
    (theirs / "README.md").write_text(head)
    run = exported(theirs, tmp_path / "imported")
    again = random_run(tmp_path / "more", init_from=str(run))

    for source, folder in ((again, "of a run"), (theirs, "of the folder")):
        out = exported(source, tmp_path / folder, format="gguf")
        data = ModelCard.load(out / "README.md").data
        assert (data.license, data.language) == HEADS[head]
    assert f"It was made of {run}." in text_of(tmp_path / "of a run")
    shutil.rmtree(theirs)
    exported(again, tmp_path / "gone", licence="cc0-1.0")
    assert "Its licence is cc0-1.0." in text_of(tmp_path / "gone")


def test_a_curated_corpus_gives_languages_and_the_licences_of_its_inputs(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    inputs = {"news": {"licence": "CC-BY-4.0"}, "web": {"licence": ""}}
    (corpus / "config.json").write_text(json.dumps({"experiment": "curate", "inputs": inputs}))
    written = [
        {"source": source, "language": language, "documents": n, "num_bytes": 1000 * n}
        for n, (source, language) in enumerate([("news", "zh"), ("web", "en"), ("web", "zh")], 41)
    ]
    (corpus / "report.json").write_text(json.dumps({"written": written}))
    run = random_run(tmp_path, **{"data.source": f"curated:{corpus}"})

    out = exported(run, tmp_path / "out")

    assert ModelCard.load(out / "README.md").data.language == ["en", "zh"]
    assert "| news | CC-BY-4.0 | zh | 41 | 41000 |" in text_of(out)
    assert "| web | not stated | en | 42 | 42000 |" in text_of(out)


def test_text_of_others_stays_text(tmp_path):
    run = random_run(tmp_path, **{"data.train": "```\n# not a title\u202e https://me:pw@host"})
    odd = run.rename(tmp_path / "a|b *c*")

    text = text_of(exported(odd, tmp_path / "out"))

    assert "# a\\|b \\*c\\*\n" in text
    assert "\n````json\n" in text and text.endswith("\n````\n")
    assert "pw" not in text and "\u202e" not in text


@pytest.mark.parametrize(
    "settings", [{"licence": "all rights"}, {"languages": ("en", "zh\n")}, {"licence": "x" * 50}]
)
def test_what_is_no_code_is_refused(settings, tmp_path):
    with pytest.raises(UserError, match="is no code of the Hub"):
        exported(random_run(tmp_path), tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
