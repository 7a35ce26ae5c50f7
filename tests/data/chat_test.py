import numpy as np
import pytest
import tokenizers as tokenizers_lib

from lm.data.chat import DEFAULT, ChatTemplate
from lm.data.conversations import Conversation, read_conversation
from lm.data.tokenizers import ByteTokenizer, HuggingFaceTokenizer
from lm.errors import UserError

CHATML = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}\
{{ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}\
{{ '<|im_start|>assistant\n' }}{% endif %}"""
MESSAGES = [
    {"role": "system", "content": "Sei knapp."},
    {"role": "user", "content": "你好!👋🏽 <|im_end|>"},
    {"role": "assistant", "content": "مرحبا"},
    {"role": "user", "content": "Noch einmal?"},
    {"role": "assistant", "content": "はい。"},
]


@pytest.fixture(scope="module")
def chatml():
    library = tokenizers_lib.ByteLevelBPETokenizer()
    library.train_from_iterator(["hello you", "user assistant system"], vocab_size=300)
    library.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return HuggingFaceTokenizer({"tokenizer.json": library.to_str().encode()})


def read(tokenizer, ids):
    return "".join(tokenizer.piece(i) for i in ids)


def template_of(source, tokenizer):
    return ChatTemplate({"default": source}, tokenizer)


def test_the_default_template_and_whose_words_are_learned():
    tokenizer = ByteTokenizer()
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": [{"type": "text", "text": "bye"}]},
        {"role": "assistant", "content": "bye!"},
    ]

    [example] = template_of(DEFAULT, tokenizer).examples("x", Conversation(messages))

    text = "<s>Be kind.⏎User:⏎hi⏎Assistant:⏎hello</s>⏎User:⏎bye⏎Assistant:⏎bye!</s>⏎"
    assert read(tokenizer, example.ids) == text
    assert read(tokenizer, example.ids[example.is_answer]) == "hello</s>⏎bye!</s>⏎"


def test_prompts_are_what_answers_were_learned_behind():
    template = template_of(DEFAULT, ByteTokenizer())

    [example] = template.examples("x", Conversation(MESSAGES))

    prompt = template.prompt("x", Conversation(MESSAGES[:4]))
    np.testing.assert_array_equal(prompt, example.ids[: len(prompt)])
    assert not example.is_answer[len(prompt) - 1] and example.is_answer[len(prompt) :].all()


def test_special_tokens_are_the_templates_own_and_never_the_users(chatml):
    [example] = template_of(CHATML, chatml).examples("x", Conversation(MESSAGES))

    ids, end = example.ids.tolist(), chatml.id_of("<|im_end|>")
    assert ids.count(end) == 5 and ids.count(chatml.id_of("<|im_start|>")) == 5
    assert chatml.decode(ids).count("<|im_end|>") == 1
    assert example.ids[example.is_answer].tolist().count(end) == 2


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "no Jinja"),
        ("{{ raise_exception('no system turn') }}", "no system turn"),
        ("{{ messages | length }}", "differently"),
    ],
)
def test_templates_that_cannot_work_are_refused(template, message):
    with pytest.raises(UserError, match=message) as caught:
        template_of(template, ByteTokenizer()).examples("chat.jsonl:7", Conversation(MESSAGES))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hi", "must be a list"),
        ([], "must be a list"),
        ([{"role": "user"}], "message 1"),
        ([{"role": "bot", "content": "hi"}], "'bot'"),
        ([{"role": "user", "content": "hi"}], "nothing to learn"),
    ],
)
def test_messages_of_another_shape_are_refused_by_name(messages, message):
    template = template_of(DEFAULT, ByteTokenizer())
    with pytest.raises(UserError, match=message) as caught:
        read_conversation("chat.jsonl:7", {"messages": messages}, "messages", template.takes_role)
    assert str(caught.value).startswith("chat.jsonl:7: ")
