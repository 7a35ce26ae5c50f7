"""The chat templates of a folder are those that `transformers` reads there."""

import json

import pytest
import tokenizers as tokenizers_lib
import transformers

from lm.chat import template_files
from lm.chat.chat_template import DEFAULT
from lm.errors import UserError

ONE, TWO, THREE = "1{{ bos_token }}\n", "2 你{% if tools %}t{% endif %}\n", "3"
LIST = [{"name": "default", "template": ONE}, {"name": "tool_use", "template": TWO}]


@pytest.fixture
def folder(tmp_path):
    library = tokenizers_lib.Tokenizer(tokenizers_lib.models.BPE({"a": 0}, []))
    transformers.PreTrainedTokenizerFast(tokenizer_object=library).save_pretrained(tmp_path)
    return tmp_path


def put(folder, *, config=None, **files):
    path = folder / "tokenizer_config.json"
    if config is not None:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": config}))
    for name, text in files.items():
        others = f"additional_chat_templates/{name}.jinja"
        path = folder / ("chat_template.jinja" if name == "default" else others)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def theirs(folder):
    found = transformers.AutoTokenizer.from_pretrained(folder).chat_template
    return {"default": found} if isinstance(found, str) else found


@pytest.mark.parametrize(
    "files",
    [
        dict(default=ONE),
        dict(config=ONE),
        dict(config=LIST),
        dict(config=LIST, default=THREE),
        dict(default=ONE, tool_use=TWO, rag=THREE),
        dict(config=ONE, rag=THREE),
        dict(),
    ],
    ids=str,
)
def test_what_is_read_is_what_transformers_reads(files, folder):
    put(folder, **files)

    found = template_files.read(folder)

    assert (None if found is None else found.sources) == theirs(folder)


@pytest.mark.parametrize(
    "config", [ONE, LIST, [*LIST, {"name": "rag", "template": THREE}]], ids=str
)
def test_templates_come_back_from_a_config_and_from_a_run(config, folder, tmp_path):
    put(folder, config=config)
    sources = template_files.read(folder).sources

    again = template_files.choose(template_files.dumps(sources), None, "")
    template_files.write(tmp_path / "run" / "tokenizer", again.sources)

    assert template_files.read(tmp_path / "run").sources == sources
    if config == ONE:
        assert template_files.dumps(sources) == ONE


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json"])
def test_a_template_that_is_no_file_is_not_taken_for_absent(name, tmp_path):
    (tmp_path / name).symlink_to("gone")
    with pytest.raises(UserError, match=rf"{name} is a link to nothing"):
        template_files.read(tmp_path)


def test_a_template_is_chosen_by_its_name_for_all_conversations(folder):
    put(folder, default=ONE, tool_use=TWO, rag=THREE)
    found = template_files.read(folder)

    assert template_files.choose("", found, "F") == found
    assert template_files.choose("tool_use", found, "F").sources == {"default": TWO, "rag": THREE}
    assert template_files.choose("default", found, "F").sources == {"default": ONE, "rag": THREE}
    assert template_files.choose("{{ 1 }}", found, "F").sources == {"default": "{{ 1 }}"}


def test_a_template_that_begins_as_a_list_is_one():
    source = "[{{ messages[0].role }}] {{ messages[0].content }}"

    chosen = template_files.choose(source, None, "")

    assert chosen.sources == {"default": source}
    assert template_files.choose(template_files.dumps(chosen.sources), None, "") == chosen


def test_without_a_template_the_plain_one_is_taken_and_said():
    chosen = template_files.choose("", None, "FOLDER")

    assert chosen.sources == {"default": DEFAULT} and "FOLDER has none" in chosen.origin


@pytest.mark.parametrize(
    ("files", "template", "reason"),
    [
        (dict(rag=THREE), "", "none that is its default; .*rag"),
        (dict(default=ONE, rag=THREE), "rga", "'rga'.*default, rag|'rga'.*rag, default"),
        (dict(), "rag", "'rag'.*none"),
        (dict(config=[{"name": "../x", "template": ONE}]), "", r"'\.\./x'"),
        (dict(config=[{"name": "default"}]), "", "neither a text nor a list"),
        (dict(config=3), "", "neither a text nor a list"),
    ],
)
def test_what_cannot_be_used_is_refused(files, template, reason, folder):
    put(folder, **files)
    with pytest.raises(UserError, match=reason) as caught:
        template_files.choose(template, template_files.read(folder), str(folder))
    assert "\n" not in str(caught.value)


def test_a_template_that_is_no_text_is_refused_by_name(folder):
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe{{ 1 }}")
    with pytest.raises(UserError, match=r"chat_template\.jinja is not UTF-8"):
        template_files.read(folder)


def test_a_config_in_another_encoding_is_named_once(tmp_path):
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"chat_template": ONE}), encoding="utf-16")
    with pytest.raises(UserError, match=r"is not UTF-8 .*; restore it") as caught:
        template_files.read(tmp_path)
    assert str(caught.value).count(str(path)) == 1


@pytest.mark.parametrize("text", ["{% for", "{% unknown %}", "{{ x | unknown }}"])
def test_a_template_that_is_no_jinja_is_copied_and_said(text, tmp_path, capsys):
    template_files.write(tmp_path / "a", {"default": text, "whole": "{{ x }}"})

    template_files.copy(tmp_path / "a", tmp_path / "b")

    assert template_files.read(tmp_path / "b").sources == {"default": text, "whole": "{{ x }}"}
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith(f"the chat template 'default' of {tmp_path}/a is no Jinja")
    assert said.count("is kept as it is") == 1
