"""Chats through the program: rows, what is said of the template, and what is kept of it."""

import datetime
import json
import types

import numpy as np
import pytest
import tokenizers as tokenizers_lib
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers

from configs import chat as chat_config
from configs import convert as convert_config
from experiments import convert, finetune
from lm.chat import template_files
from lm.chat.chat_template import DEFAULT, End
from lm.errors import UserError
from lm.inference import predicting
from lm.models.families import FAMILIES
from lm.tasks.factory import make_task
from lm.tasks.text import TextInputs
from lm.tokenizers.tokenizers import ByteTokenizer

SPECIAL = ("<s>", "<|end|>", "<|start|>", "<|sep|>", "<|stop|>")
TURN = (
    "{% for m in messages %}<|start|>{{ m.role }}<|sep|>CONTENT<|stop|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|sep|>{% endif %}"
)
WITH_BOS = "{{ bos_token }}" + TURN
TEMPLATES = {
    "writes its first token": WITH_BOS.replace("CONTENT", "{{ m.content }}"),
    "trims": WITH_BOS.replace("CONTENT", "{{ m.content | trim }}"),
    "cuts thoughts": WITH_BOS.replace("CONTENT", "{{ m.content.split('</think>')[-1] }}"),
    "writes JSON": WITH_BOS.replace("CONTENT", "{{ m.content | tojson }}"),
    "marks answers": TURN.replace(
        "CONTENT", "{% generation %}{{ m.content }}{% endgeneration %}{{ strftime_now('%Y') }}"
    ),
    "has no first token": TURN.replace("CONTENT", "{{ m.content }}"),
}
CHATS = [
    [
        {"role": "user", "content": "  hello there 你好 <&> "},
        {"role": "assistant", "content": "<think>so</think>I am fine  "},
    ],
    [{"role": "user", "content": "two"}, {"role": "assistant", "content": "四"}],
]


def make_folder(folder, templates, bos="<s>"):
    """A tiny model of `transformers`, whose tokenizer knows these templates."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*SPECIAL, *alphabet]
    library = tokenizers_lib.Tokenizer(models.BPE({c: i for i, c in enumerate(names)}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(list(SPECIAL))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=library, bos_token=bos, eos_token="<|stop|>"
    )
    tokenizer.chat_template = templates
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(names),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    if bos is None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": None}))
    return transformers.AutoTokenizer.from_pretrained(folder)


def make_config(folder, chats, **settings):
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    config = chat_config.get_config()
    config.init_from = str(folder)
    config.data.update(train=str(path), validation=str(path), seq_len=256)
    config.update(settings)
    return config


def carry(source, target):
    config = convert_config.get_config()
    config.update(source=str(source), target=str(target))
    assert convert.run(config, target) == 0


@pytest.mark.parametrize("name", TEMPLATES)
def test_rows_of_a_folder_are_those_of_transformers(name, tmp_path):
    bos = None if name == "has no first token" else "<s>"
    theirs = make_folder(tmp_path, TEMPLATES[name], bos)

    _, data = finetune.read(make_config(tmp_path, CHATS))

    for chat, example in zip(CHATS, data.train.examples, strict=True):
        expected = theirs.apply_chat_template(chat, return_dict=True)["input_ids"]
        assert example["tokens_BL"].tolist() == expected
        prompt = theirs.apply_chat_template(chat[:1], add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        first = int(np.flatnonzero(example["weights_BL"])[0])
        if name != "marks answers":
            assert data.task.prompt_ids(chat[0]["content"]).tolist() == prompt
            assert first == len(prompt) - 1
    ends = "nothing ends an answer" if name == "marks answers" else "ends with <|stop|>"
    assert str(tmp_path) in data.lines["chat template"] and ends in data.lines["chat template"]


def test_named_templates_go_through_a_run_and_back(tmp_path):
    templates = {"default": TEMPLATES["trims"], "tool_use": TURN, "rag": "{{ documents }}"}
    theirs = make_folder(tmp_path / "folder", templates)
    (tmp_path / "folder" / "chats.jsonl").touch()

    carry(tmp_path / "folder", tmp_path / "run")
    carry(tmp_path / "run", tmp_path / "back")

    assert template_files.read(tmp_path / "run").sources == templates
    back = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert back.chat_template == theirs.chat_template == templates
    config = make_config(tmp_path / "folder", CHATS)
    config.init_from = str(tmp_path / "run")
    config, data = finetune.read(config)
    expected = theirs.apply_chat_template(CHATS[0], return_dict=True)["input_ids"]
    assert data.train.examples[0]["tokens_BL"].tolist() == expected
    assert template_files.choose(config.task.template, None, "").sources == templates
    config = make_config(tmp_path / "folder", CHATS)
    config.task.template = "rga"
    with pytest.raises(UserError, match=r"'rga'.*rag"):
        finetune.read(config)


def test_a_folder_without_a_template_is_said_to_have_none(tmp_path):
    make_folder(tmp_path, None)

    _, data = finetune.read(make_config(tmp_path, CHATS))

    assert f"the plain one, since {tmp_path} has none" in data.lines["chat template"]


def chat_task(**settings):
    inputs = TextInputs(ByteTokenizer(), FAMILIES["gpt2"], num_types=1, seq_len=64, truncate=True)
    return make_task(dict(kind="chat", messages="messages") | settings, inputs)


def test_runs_of_before_the_day_was_kept_begin_their_rows_as_they_did():
    source = "{{ messages[0].content }}"
    read = lambda **date: chat_task(template=source, **date).prompt_ids("a").tolist()

    assert read(date="") == [ord("a") + 3]
    assert read() == [ByteTokenizer.bos_id, ord("a") + 3]


def test_messages_may_stand_in_another_field():
    task = chat_task(template=DEFAULT, date="", messages="meta.messages")
    plain = chat_task(template=DEFAULT, date="")
    given = lambda name, said: plain.from_text(name, "a")._replace(
        fields={"meta": {"messages": said}}
    )
    record = given("x", CHATS[1])

    [row], [expected] = (
        task.encode(record),
        plain.encode(record._replace(fields=record.fields["meta"])),
    )

    assert row["tokens_BL"].tolist() == expected["tokens_BL"].tolist()
    assert task.gold(record) == {"answers": ["四"]}
    asked = task.asked_ids(given("x", CHATS[1][:1]))
    assert asked.tolist() == task.prompt_ids("two").tolist()
    assert asked.tolist() == task.asked_ids(task.from_text("x", "two")).tolist()
    with pytest.raises(UserError, match="x: messages must be a list"):
        task.encode(record._replace(fields={"meta": {}}))
    with pytest.raises(UserError, match="x: the last message is an assistant's already"):
        task.read(record)


def test_the_day_is_that_of_the_first_start(tmp_path):
    config = chat_config.get_config("debug")
    begun = lambda: finetune._as_begun(config.task.to_dict(), tmp_path)
    today = datetime.date.today().isoformat()
    assert begun()["date"] == today and config.task.date == ""

    path = tmp_path / "config.json"
    path.write_text(json.dumps({"task": begun() | {"date": "2001-02-03"}}))
    assert begun()["date"] == "2001-02-03"
    task = chat_task(template="{{ strftime_now('%d %b %Y') }}", date=begun()["date"])
    assert ByteTokenizer().decode(task.prompt_ids("x")) == "03 Feb 2001"

    path.write_text(json.dumps({"task": {"kind": "chat", "template": "old"}}))
    assert "date" not in begun() and begun()["template"] == "old"
    with pytest.raises(UserError, match=r"task\.date='soon'"):
        chat_task(template=DEFAULT, date="soon")


ENDS = {
    "a text": (End(None, "</turn>"), "an answer ends at '</turn>', as the chat template"),
    "nothing": (End(None, ""), "the chat template ends no answer"),
    "a token": (End(3, ""), ""),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_ends_replies_is_said_before_any_is_predicted(name, capsys):
    end, line = ENDS[name]
    task = types.SimpleNamespace(template=types.SimpleNamespace(end=end))

    run = types.SimpleNamespace(task=task, tokenizer=types.SimpleNamespace(stop_ids=(1,)))
    predicting._replies(run, None, None)

    said = capsys.readouterr().err
    assert said.startswith(line) and bool(said) == bool(line)
