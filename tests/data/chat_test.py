import numpy as np
import pytest
import tokenizers as tokenizers_lib
import transformers

from lm.data.chat import DEFAULT, ChatTemplate, check_messages
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


def test_the_default_template_and_whose_words_are_learned():
    tokenizer = ByteTokenizer()
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "bye"},
        {"role": "assistant", "content": "bye!"},
    ]

    parts = ChatTemplate(DEFAULT, tokenizer).conversation("x", messages)

    assert [(read(tokenizer, part.ids), part.is_answer) for part in parts] == [
        ("Be kind.⏎User: hi⏎Assistant: ", False),
        ("hello</s>⏎", True),
        ("User: bye⏎Assistant: ", False),
        ("bye!</s>⏎", True),
    ]


def test_prompts_are_what_answers_were_learned_behind():
    template = ChatTemplate(DEFAULT, ByteTokenizer())

    parts = template.conversation("x", MESSAGES)

    before = np.concatenate([part.ids for part in parts[:3]])
    np.testing.assert_array_equal(template.prompt("x", MESSAGES[:4]), before)


def test_special_tokens_are_the_templates_own_and_never_the_users(chatml):
    parts = ChatTemplate(CHATML, chatml).conversation("x", MESSAGES)

    ids = np.concatenate([part.ids for part in parts]).tolist()
    end = chatml.id_of("<|im_end|>")
    assert ids.count(end) == 5 and ids.count(chatml.id_of("<|im_start|>")) == 5
    assert chatml.decode(ids).count("<|im_end|>") == 1
    assert [part.ids.tolist().count(end) for part in parts if part.is_answer] == [1, 1]


def test_tokens_are_those_of_transformers(chatml, tmp_path):
    chatml.save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), chat_template=CHATML
    )
    messages = [m | {"content": m["content"].removesuffix(" <|im_end|>")} for m in MESSAGES]

    parts = ChatTemplate(CHATML, chatml).conversation("x", messages)

    expected = theirs.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    assert np.concatenate([part.ids for part in parts]).tolist() == expected


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
        ChatTemplate(template, ByteTokenizer()).conversation("chat.jsonl:7", MESSAGES)
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
    with pytest.raises(UserError, match=message) as caught:
        check_messages("chat.jsonl:7", messages)
    assert str(caught.value).startswith("chat.jsonl:7: ")
