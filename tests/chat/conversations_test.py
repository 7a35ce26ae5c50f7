import re

import numpy as np
import pytest
import tokenizers as tokenizers_lib

from lm.chat.chat_template import ASKED_BY_MORE, ASKED_OTHERWISE, DEFAULT, SPLIT, ChatTemplate
from lm.chat.conversations import Conversation, read_conversation, text_of
from lm.errors import UserError
from lm.tokenizers.tokenizers import ByteTokenizer, HuggingFaceTokenizer

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


def test_a_refusal_names_the_turn():
    template = template_of("{{ messages | length }}{{ messages[-1].content }}", ByteTokenizer())
    with pytest.raises(UserError, match=r"chats\.jsonl:7, message 3: .*differently"):
        template.examples("chats.jsonl:7", Conversation(MESSAGES))


def test_conversations_with_tools_have_a_template_of_their_own():
    template = ChatTemplate(
        {
            "default": DEFAULT,
            "tool_use": "{{ tools | length }} tools: {{ messages }}",
        },
        ByteTokenizer(),
    )
    messages, tool = MESSAGES[:2], {"type": "function", "function": {"name": "f"}}
    read = lambda **more: template.prompt("x", Conversation(messages, **more))

    assert template.prompt("x", Conversation(messages)).tolist() == read(tools=None).tolist()
    assert bytes((read(tools=[tool]) - 3)[:8].tolist()) == b"1 tools:"
    assert bytes((read(tools=[]) - 3)[:8].tolist()) == b"0 tools:"


PARTS = [{"type": "text", "text": "hello "}, {"type": "text", "text": "你"}]


@pytest.mark.parametrize(
    "said",
    [
        "{{ m.content }}",
        "{{ m.content | trim }}",
        "{{ m.content + '!' }}",
        "{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}",
        "{% for p in m.content %}{{ p.text if p is mapping else p }}{% endfor %}",
    ],
)
def test_parts_of_text_are_the_text_whatever_the_template_takes(said):
    source = "{% for m in messages %}" + said + "{% endfor %}{{ '>' if add_generation_prompt }}"
    template = template_of(source, ByteTokenizer())
    prompt = lambda content: template.prompt(
        "x", Conversation([{"role": "user", "content": content}])
    )

    assert prompt(PARTS).tolist() == prompt("hello 你").tolist()
    assert text_of({"content": PARTS}) == "hello 你"


OF_PARTS = "{% for p in m.content %}{{ p['text'] }}{% endfor %}"


@pytest.mark.parametrize(
    "said",
    [
        OF_PARTS,
        "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}",
        "{{ m.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join }}",
        "{{ m.content[0].text + m.content[1:] | map(attribute='text') | join }}",
        "{% if m.role == 'user' %}" + OF_PARTS + "{% else %}{{ m.content }}{% endif %}",
        "{% if m.role == 'assistant' %}" + OF_PARTS + "{% else %}{{ m.content }}{% endif %}",
        "{% if m.role == 'system' %}{{ m.content }}{% else %}" + OF_PARTS + "{% endif %}",
        "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}" + OF_PARTS,
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + OF_PARTS,
    ],
)
def test_a_template_that_reads_parts_alone_loses_no_text(said):
    source = "{% for m in messages %}{{ m.role[0] }}:" + said + "{{ '\\n' }}{% endfor %}"
    tokenizer = ByteTokenizer()
    template = template_of(source + "{{ 'a:' if add_generation_prompt }}", tokenizer)
    system = [{"role": "system", "content": "请"}] * ("== 'system' %}{{ raise" not in said)
    messages = [{"role": "user", "content": PARTS}, {"role": "assistant", "content": "好的<end>"}]

    [example] = template.examples("x", Conversation([*system, *messages]))

    before = "s:请\n" if system else ""
    assert tokenizer.decode(example.ids) == before + "u:hello 你\na:好的<end>\n"
    assert tokenizer.decode(example.ids[example.is_answer]) == "好的<end>\n"


def test_a_template_that_writes_nothing_of_an_answer_is_refused():
    source = "{% for m in messages if m.role == 'user' %}{{ m.content }}\n{% endfor %}"
    template = template_of(source, ByteTokenizer())

    with pytest.raises(UserError, match="x: nothing is to be learned: its answers are empty, or"):
        template.examples("x", Conversation(MESSAGES))


def test_what_asks_for_more_than_stands_before_an_answer_is_noted():
    begun = CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>' }}{% endif")
    assert begun != CHATML

    [example] = template_of(begun, ByteTokenizer()).examples("x", Conversation(MESSAGES))

    assert example.notes == [ASKED_BY_MORE] * 2
    assert read(ByteTokenizer(), example.ids[example.is_answer]).startswith("\\xd9\\x85")


def test_turns_that_are_written_otherwise_once_answered_stand_as_they_are_asked():
    source = (
        "{% for m in messages %}{{ m.role[0] }}:{{ '(now) ' if loop.last and m.role == 'user' }}"
        "{{ m.content }}\n{% endfor %}{{ 'a:' if add_generation_prompt }}"
    )
    tokenizer = ByteTokenizer()
    template = template_of(source, tokenizer)

    examples = template.examples("x", Conversation(MESSAGES[1:]))

    answers = [tokenizer.decode(e.ids[e.is_answer]) for e in examples]
    assert answers == ["مرحبا\n", "はい。\n"]
    for example, i in zip(examples, (1, 3), strict=True):
        prompt = template.prompt("x", Conversation(MESSAGES[1 : 1 + i]))
        assert example.ids[~example.is_answer].tolist() == prompt.tolist()
        assert example.notes == [ASKED_OTHERWISE]


def test_tokens_across_the_border_of_an_answer_belong_to_it(chatml):
    template = template_of("so s{{ 'tand' if messages[1] }}", chatml)
    messages = [{"role": "user", "content": ""}, {"role": "assistant", "content": "x"}]

    [example] = template.examples("x", Conversation(messages))

    assert chatml.decode(example.ids[example.is_answer]) == "stand"
    assert example.notes == [SPLIT]


def test_what_stands_beside_messages_may_be_json_in_a_text():
    takes_role = template_of(DEFAULT, ByteTokenizer()).takes_role
    fields = {
        "chat": MESSAGES,
        "tools": '[{"type": "function"}]',
        "documents": [{"text": "a"}],
        "chat_template_kwargs": {"enable_thinking": False},
    }

    conversation = read_conversation("x", fields, "chat", takes_role)

    assert conversation.tools == [{"type": "function"}]
    assert conversation.documents == [{"text": "a"}]
    assert conversation.variables == {"enable_thinking": False}
    for key, value in (("tools", "x"), ("documents", {"a": 1}), ("chat_template_kwargs", [1])):
        with pytest.raises(UserError, match=f"^x: {key} must be"):
            read_conversation("x", fields | {key: value}, "chat", takes_role)


def test_roles_are_the_usual_ones_and_those_that_the_template_names():
    template = template_of("{% if messages[0].role == 'observation' %}{% endif %}", ByteTokenizer())

    for role in ("system", "developer", "user", "assistant", "tool", "observation"):
        assert template.takes_role(role)
    for role in ("asistant", "", None, 3):
        assert not template.takes_role(role)


def test_the_plain_template_writes_no_tools():
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}
    template = template_of(DEFAULT, ByteTokenizer())
    for conversation in (Conversation([*MESSAGES[:2], call]), Conversation(MESSAGES, [{}])):
        with pytest.raises(UserError, match="knows no tools"):
            template.examples("x", conversation)


def test_text_that_no_tokenizer_takes_is_refused_by_name(chatml):
    messages = [MESSAGES[1] | {"content": "\ud800"}, MESSAGES[2]]
    for tokenizer in (chatml, ByteTokenizer()):
        with pytest.raises(UserError, match=r"^chats:3"):
            template_of(CHATML, tokenizer).examples("chats:3", Conversation(messages))


def test_messages_reach_the_template_as_transformers_changes_them():
    source = "{{ messages[0].content is defined }} {{ messages[0] | sort | join(',') }}"
    message = {"role": "assistant", "content": None, "tool_calls": [{}], "reasoning": "a"}

    ids = template_of(source, ByteTokenizer()).prompt("x", Conversation([message]))

    keys = "reasoning,reasoning_content,role,thinking,tool_calls"
    assert ByteTokenizer().decode(ids) == f"False {keys}"


def test_what_ends_an_answer_is_known_of_templates_that_want_a_system_message(chatml):
    wants = "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML

    assert template_of(wants, chatml).end == (chatml.id_of("<|im_end|>"), "")
    assert template_of("{{ raise_exception('no') }}", chatml).end == (None, "")


PLAIN = (
    "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}END{% endgeneration %}GAP"
    "{% else %}{{ m.content }}\n{% endif %}{% endfor %}"
    "{{ 'assistant: ' if add_generation_prompt }}"
)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("<|im_end|>", None),
        ("\n### End\n\n", "\n### End\n\n"),
        ("</turn>\n", "</turn>"),
        ("\n[|end|]\n", "[|end|]"),
        ("\n###\n", "\n###\n"),  # Without the line's end, any heading would be one.
        (".\n", ""),
        ('"\n', ""),
        ("\n\n", ""),  # Answers may have empty lines of their own.
        ("", ""),
        ("###<|im_end|>", None),
    ],
)
def test_a_text_behind_an_answer_ends_it_where_no_special_token_does(end, expected, chatml):
    for tag in (True, False):
        source = PLAIN.replace("END", end).replace("GAP", "Z" if tag else "")
        if not tag:
            source = re.sub(r"{% (end)?generation %}", "", source)

        found = template_of(source, chatml).end

        special = chatml.id_of("<|im_end|>") if expected is None else None
        assert found == (special, expected or "")


def test_a_tag_around_an_earlier_turn_that_is_rewritten_marks_no_second_answer():
    source = (
        "{% for m in messages %}{% if m.role == 'user' %}U{{ m.content }}\n{% else %}A"
        "{% generation %}{{ m.content if loop.last else m.content.split('>')[-1] }}\n"
        "{% endgeneration %}{% endif %}{% endfor %}{{ 'A' if add_generation_prompt }}"
    )
    said = [("user", "u"), ("assistant", "<t>one"), ("assistant", "<t>two"), ("user", "v")]
    messages = [{"role": r, "content": c} for r, c in [*said, ("assistant", "<t>three")]]
    tokenizer = ByteTokenizer()

    examples = template_of(source, tokenizer).examples("x", Conversation(messages))

    assert [read(tokenizer, e.ids[e.is_answer]) for e in examples] == [
        "<t>one⏎",
        "<t>two⏎",
        "<t>three⏎",
    ]


def test_every_tag_of_a_turn_counts():
    source = (
        "{% for m in messages %}{% if m.role == 'user' %}U{{ m.content }}\n{% else %}"
        "{% generation %}A{% endgeneration %}:{% generation %}{{ m.content }}{% endgeneration %}"
        "{% endif %}{% endfor %}{{ 'A:' if add_generation_prompt }}"
    )
    said = [("user", "u"), ("assistant", "one"), ("user", "v"), ("assistant", "two")]
    tokenizer = ByteTokenizer()

    [example] = template_of(source, tokenizer).examples(
        "x", Conversation([{"role": r, "content": c} for r, c in said])
    )

    assert read(tokenizer, example.ids[example.is_answer]) == "AoneAtwo"
