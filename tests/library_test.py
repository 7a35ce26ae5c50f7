"""`import lm` as a library: lazily, and with the numbers of the programs."""

import inspect
import json
import pathlib
import re
import subprocess
import sys

import pytest
import transformers

import lm
from configs import generate as generate_config
from configs import quickstart
from experiments import generate, pretrain
from lm.errors import UserError
from lm.inference import texts

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    """One that has a run in runs/quickstart."""
    config = quickstart.get_config("debug")
    config.data.update(source="text", **corpus)
    config.train.num_steps = 2
    config.eval.sample_tokens = 0
    folder = tmp_path_factory.mktemp("library")
    assert pretrain.run(config.lock(), folder / "runs/quickstart") == 0
    return folder


def test_the_page_runs_as_it_stands(folder, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/library.md").read_text(), re.DOTALL)
    code = "\n".join(blocks)
    monkeypatch.chdir(folder)

    names = {}
    exec(compile(code, "docs/library.md", "exec"), names)

    assert len([line for line in code.splitlines() if line and line[0] != "#"]) < 40
    assert float(names["metrics"]["skipped"]) == 0
    assert names["whole"].log_likelihood < names["behind"].log_likelihood < 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained("exported")
    assert theirs.config.vocab_size == names["run"].config["model"]["vocab_size"]


def test_a_text_is_the_one_that_the_program_writes(folder, tmp_path):
    run = lm.load(folder / "runs/quickstart")
    prompts = ["def ", "def ", "import "]
    config = generate_config.get_config()
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    config.update(
        checkpoint=str(folder / "runs/quickstart"),
        prompts_file=str(tmp_path / "prompts.txt"),
        output=str(tmp_path / "written.jsonl"),
        max_new_tokens=8,
    )

    written = lm.generate(run, prompts, max_new_tokens=8)

    assert generate.run(config, None) == 0
    lines = (tmp_path / "written.jsonl").read_text().splitlines()
    assert written == [json.loads(line)["text"] for line in lines]
    assert written[0] != written[1]


def test_what_is_not_given_is_what_the_recipe_has():
    config = generate_config.get_config()
    parameters = inspect.signature(texts.generate).parameters.values()
    defaults = {one.name: one.default for one in parameters if one.default is not one.empty}

    assert len(defaults) > 8
    assert defaults == {name: config[name] for name in defaults}


def test_a_text_alone_is_not_taken_for_a_list_of_letters(folder):
    run = lm.load(folder / "runs/quickstart")

    for function in (lm.generate, lm.score):
        with pytest.raises(UserError, match=r"'abc' is one text; give a list: \['abc'\]"):
            function(run, "abc")


def test_importing_lm_imports_nothing_else():
    heavy = ("jax", "numpy", "lm.errors")
    code = f"import lm, sys; dir(lm); print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert found.stdout == "[]\n", found.stderr


def test_every_name_is_there_and_in_the_headings():
    for name in lm.__all__:
        assert getattr(lm, name) is not None
        assert re.search(rf"\b{name}\b", lm.__doc__)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        lm.lode  # noqa: B018
