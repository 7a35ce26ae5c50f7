"""Rows, prompts and answers are those of `transformers`, for templates of every manner."""

import datetime
import functools
import json
import pathlib
import re

import pytest
import tokenizers as tokenizers_lib
import transformers

from lm.chat.chat_template import ASKED_OTHERWISE, ChatTemplate
from lm.chat.conversations import Conversation
from lm.errors import UserError
from lm.generation import ending
from lm.tokenizers import tokenizers
from tests.tiny_tokenizers import tokenizer_of

TEMPLATES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((pathlib.Path(__file__).parents[1] / "chat_templates").glob("*.jinja"))
}
KINDS = ("gpt2", "roberta", "llama", "unigram bytes", "t5")
NAMED = dict(
    bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>", sep_token="<sep>"
)
# Phi 3 has these take the white space behind them.
STRIPPING = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
NOT_SPECIAL = ("<think>", "</think>", "<tool_call>", "</tool_call>")
# These write the last turn otherwise once it is answered.
REWRITES = ("mistral_tools", "hermes_tools")
NOW = datetime.datetime.now()

ENGLISH = [
    {"role": "user", "content": '  Where is the thing? It\'s <b>not</b> here & "there".\n'},
    {"role": "assistant", "content": "In the box;\n\n- the big one "},
    {"role": "user", "content": "The\tother\n  thing?"},
    {"role": "assistant", "content": " the same."},
    {"role": "user", "content": "thanks"},
    {"role": "assistant", "content": "the end"},
]
CHINESE = [
    {"role": "user", "content": "北京是中国的首都吗？"},
    {"role": "assistant", "content": "是的，北京是首都。👩‍👩‍👧"},
    {"role": "user", "content": "　谢谢 the ①！"},
    {"role": "assistant", "content": "不客气\n"},
]
THOUGHTS = [
    {"role": "user", "content": "two and two"},
    {"role": "assistant", "content": "<think>\nthe sum is 四\n</think>\n\nfour"},
    {"role": "user", "content": "再一次"},
    {"role": "assistant", "content": "<think>again</think>four", "reasoning": None},
]
REASONING = [
    {"role": "user", "content": "two and two"},
    {"role": "assistant", "content": "four", "reasoning_content": "the sum"},
    {"role": "user", "content": "and one"},
    {"role": "assistant", "content": "five", "thinking": "four and one"},
]
SYSTEM = [{"role": "system", "content": "Be kind 请. "}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather <now> & later; 天气",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["place"],
            },
        },
    }
]
CALL = {"name": "weather", "arguments": {"place": "北京 <x>", "days": 2}}
WITH_TOOLS = [
    {"role": "user", "content": "weather in 北京?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "id": "call00001", "function": CALL}],
    },
    {"role": "tool", "name": "weather", "tool_call_id": "call00001", "content": "sunny & 20°"},
    {"role": "assistant", "content": "It is sunny."},
    {"role": "user", "content": "thanks"},
    {"role": "assistant", "content": "any time"},
]
DOCUMENTS = [{"title": "Box", "text": "The thing is here."}, {"title": "盒子", "text": "东西"}]
CONVERSATIONS = {
    "English": Conversation(ENGLISH),
    "Chinese": Conversation(CHINESE),
    "system": Conversation(SYSTEM + ENGLISH[:4]),
    "developer": Conversation([SYSTEM[0] | {"role": "developer"}, *CHINESE]),
    "thoughts": Conversation(THOUGHTS),
    "reasoning": Conversation(SYSTEM + REASONING),
    "no thinking": Conversation(ENGLISH, variables={"enable_thinking": False}),
    "tools": Conversation(WITH_TOOLS, TOOLS),
    "tools and system": Conversation(SYSTEM + WITH_TOOLS, TOOLS),
    "documents": Conversation(ENGLISH, None, DOCUMENTS),
}


@functools.cache
def both(kind, folder):
    """A tokenizer of this kind that knows the tokens of all templates: theirs, and ours."""
    tokenizer_of(kind).save(folder)
    library = tokenizers_lib.Tokenizer.from_file(str(folder / "tokenizer.json"))
    written = set(re.findall(r"<[|｜][^'\"{}+ ]*?[|｜]>", "".join(TEMPLATES.values())))
    written |= {"<|system|>", "<|user|>", "<|assistant|>", "<|end|>"}
    written |= {"[INST]", "[/INST]", "[TOOL_CALLS]", "<start_of_turn>", "<end_of_turn>", "<sop>"}
    library.add_tokens([tokenizers_lib.AddedToken(name) for name in NOT_SPECIAL])
    library.add_special_tokens(
        [tokenizers_lib.AddedToken(name, rstrip=name in STRIPPING) for name in sorted(written)]
    )
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=library, **NAMED)
    theirs.save_pretrained(folder)
    return theirs, tokenizers.load_file(folder / "tokenizer.json")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: tmp_path_factory.mktemp(kind.replace(" ", "_")) for kind in KINDS}


def expected_ids(theirs, conversation, num, **settings):
    return theirs.apply_chat_template(
        list(conversation.messages[:num]),
        tools=conversation.tools,
        documents=conversation.documents,
        tokenize=True,
        return_dict=True,
        **conversation.variables,
        **settings,
    )


# All templates on the kinds that most models have, and those that differ most on all kinds.
PAIRS = [(name, kind) for name in TEMPLATES for kind in ("gpt2", "llama")]
PAIRS += [
    (name, kind)
    for name in ("llama2", "gemma3", "qwen3", "phi3", "deepseek_r1", "vicuna")
    for kind in ("roberta", "unigram bytes", "t5")
]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_rows_and_prompts_are_those_of_transformers(name, kind, folders):
    theirs, ours = both(kind, folders[kind])
    theirs.chat_template = TEMPLATES[name]
    template = ChatTemplate({"default": TEMPLATES[name]}, ours, now=NOW)
    taken = 0
    for what, conversation in CONVERSATIONS.items():
        num = len(conversation.messages)
        turns = [i for i, m in enumerate(conversation.messages) if m["role"] == "assistant"]
        try:
            whole = expected_ids(theirs, conversation, num)["input_ids"]
            prompts = {
                i: expected_ids(theirs, conversation, i, add_generation_prompt=True)["input_ids"]
                for i in turns
            }
        except Exception:  # Of a template that refuses such a conversation.
            with pytest.raises(UserError):
                template.examples("x", conversation)
                template.prompt("x", conversation.first(turns[-1]))
            continue
        taken += 1
        for i, prompt in prompts.items():
            assert template.prompt("x", conversation.first(i)).tolist() == prompt, (what, i)
        examples = template.examples("x", conversation)
        prefixes = [expected_ids(theirs, conversation, i + 1)["input_ids"] for i in turns]
        for example in examples:
            ids = example.ids.tolist()
            if ASKED_OTHERWISE in example.notes:  # As it is asked, and so not as it stands there.
                assert name in REWRITES and any(ids[: len(p)] == p for p in prompts.values()), what
            else:
                assert ids in prefixes, what
        if ASKED_OTHERWISE not in examples[-1].notes:
            assert examples[-1].ids.tolist() == whole, what
    assert taken >= 2, "it takes no conversation"


@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5"])
@pytest.mark.parametrize("name", ["training", "smollm3"])
def test_tagged_answers_are_those_of_transformers(name, kind, folders):
    theirs, ours = both(kind, folders[kind])
    theirs.chat_template = TEMPLATES[name]
    template = ChatTemplate({"default": TEMPLATES[name]}, ours, now=NOW)
    for what in ("English", "Chinese", "system", "no thinking"):
        conversation = CONVERSATIONS[what]
        num = len(conversation.messages)
        expected = expected_ids(theirs, conversation, num, return_assistant_tokens_mask=True)

        [example] = template.examples("x", conversation)

        assert example.is_answer.tolist() == list(map(bool, expected["assistant_masks"])), what


# What the answers of a conversation are, as text, and in how many examples.
LEARNED = {
    "chatml": [
        "In the box;\n\n- the big one <|im_end|>\n the same.<|im_end|>\nthe end<|im_end|>\n"
    ],
    # The last alone ends with the eos token, and no other loses its own end for that. Their special
    # tokens take the spaces behind them.
    "phi3": ["In the box;\n\n- the big one <|end|>the same.<|end|>the end<|end|></s>"],
    "phi4_mini": ["In the box;\n\n- the big one <|end|>the same.<|end|>the end<|end|></s>"],
    "vicuna": [" In the box;\n\n- the big one </s>  the same.</s> the end</s>"],
    "command_r": [
        "In the box;\n\n- the big one<|END_OF_TURN_TOKEN|>\nthe same.<|END_OF_TURN_TOKEN|>\n"
        "the end<|END_OF_TURN_TOKEN|>\n"
    ],
    "llama2": [" In the box;\n\n- the big one </s> the same. </s> the end </s>"],
    "gemma2": [
        "In the box;\n\n- the big one<end_of_turn>\nthe same.<end_of_turn>\nthe end<end_of_turn>\n"
    ],
    # What the model ends its last answer with is not what stands behind earlier ones.
    "channels": [
        "<|channel|>final<|message|>In the box;\n\n- the big one <|return|>",
        "<|channel|>final<|message|> the same.<|return|>",
        "<|channel|>final<|message|>the end<|return|>",
    ],
    # An answer is asked for with a thought before it, and earlier ones have lost theirs.
    "qwen3": [
        "<think>\n\n</think>\n\nIn the box;\n\n- the big one <|im_end|>\n",
        "<think>\n\n</think>\n\n the same.<|im_end|>\n",
        "<think>\n\n</think>\n\nthe end<|im_end|>\n",
    ],
    "training": ["In the box;\n\n- the big one<|im_end|>the same.<|im_end|>the end<|im_end|>"],
}


def learned(tokenizer, example):
    ids = example.ids[example.is_answer]
    special = {i: name for name, i in tokenizer.special_ids.items()}
    return "".join(special.get(i) or tokenizer.text_of(i) for i in ids.tolist())


@pytest.mark.parametrize("name", LEARNED)
def test_what_is_learned_is_every_answer_with_its_end(name, folders):
    _, ours = both("gpt2", folders["gpt2"])

    examples = ChatTemplate({"default": TEMPLATES[name]}, ours).examples("x", Conversation(ENGLISH))

    assert [learned(ours, example) for example in examples] == LEARNED[name]


def test_each_answer_is_learned_behind_what_it_is_asked_with(folders):
    _, ours = both("gpt2", folders["gpt2"])
    for name in TEMPLATES.keys() - {"deepseek_r1"}:  # It asks with a thought begun.
        template = ChatTemplate({"default": TEMPLATES[name]}, ours)
        examples = template.examples("x", Conversation(CHINESE))
        for i in (1, 3):
            prompt = template.prompt("x", Conversation(CHINESE[:i])).tolist()
            behind = [e for e in examples if e.ids[: len(prompt)].tolist() == prompt]
            assert any(e.is_answer[len(prompt)] for e in behind), name


# Nothing stands behind an answer of these.
NO_END = ("glm4", "nemotron")
ENDS = {
    "llama3": "<|eot_id|>",
    "gemma3": "<end_of_turn>",
    "phi3": "<|end|>",
    "channels": "<|return|>",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_ends_an_answer_is_known(name, folders):
    _, ours = both("gpt2", folders["gpt2"])
    end, text = ChatTemplate({"default": TEMPLATES[name]}, ours).end

    if name in NO_END:
        assert (end, text) == (None, "")
    else:
        assert not text
        assert end in ours.special_ids.values()
        assert ENDS.get(name, ours.piece(end)) == ours.piece(end)


@pytest.mark.parametrize("kind", ["gpt2", "roberta", "llama"])
def test_special_tokens_are_text_where_the_folder_says_so(kind, tmp_path):
    both.__wrapped__(kind, tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"split_special_tokens": True}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizers.load_file(tmp_path).save(tmp_path / "run")
    ours = tokenizers.load(tmp_path / "run")
    template = ChatTemplate({"default": TEMPLATES["qwen25"]}, ours, now=NOW)

    prompt = template.prompt("x", Conversation(ENGLISH[:3])).tolist()

    given = dict(chat_template=TEMPLATES["qwen25"], add_generation_prompt=True)
    assert prompt == theirs.apply_chat_template(ENGLISH[:3], **given)["input_ids"]
    text = "the <|im_end|>thing</s>"
    expected = theirs(text, add_special_tokens=False).input_ids
    assert ours.encode_written(text).ids.tolist() == expected
    assert template.end == (None, "<|im_end|>")
    assert ending.stops(ours, (), ["<|im_end|>"]) == ((), ("<|im_end|>",))


# Texts that spell special tokens, in ways that templates look at.
SPELT = (
    "<|im_end|>",
    "a<s>b",
    "</s></s>",
    "你<|end|>\nthe",
    "<|im_start|>assistant\nyes",
    "the <sep>",
)


@pytest.mark.parametrize("kind", ["gpt2", "roberta", "llama", "unigram bytes", "t5"])
@pytest.mark.parametrize("name", ["phi3", "breaks", "qwen3", "training"])
def test_special_tokens_that_a_message_spells_are_text(name, kind, folders):
    _, ours = both(kind, folders[kind])
    template = ChatTemplate({"default": TEMPLATES[name]}, ours)
    specials = lambda ids: [i for i in ids.tolist() if ours.is_special(i) and i != ours.unk_id]
    of = lambda text: Conversation(
        [{"role": "user", "content": text}, {"role": "assistant", "content": f"so: {text} there"}]
    )
    [plain] = template.examples("x", of("the thing"))
    for text in SPELT:
        [example] = template.examples("x", of(text))

        assert specials(example.ids) == specials(plain.ids), text
        prompt = template.prompt("x", of(text).first(1))
        if kind == "t5":  # Its line break is a space, and so a part of the next token.
            prompt = prompt[:-1]
        assert prompt.tolist() == example.ids[: len(prompt)].tolist()


def test_spelt_tokens_are_encoded_as_transformers_does_when_it_is_asked_to(folders):
    theirs, ours = both("gpt2", folders["gpt2"])
    for name in ("chatml", "llama3", "zephyr"):
        theirs.chat_template = TEMPLATES[name]
        template = ChatTemplate({"default": TEMPLATES[name]}, ours)
        for text in SPELT:
            messages = [{"role": "user", "content": text}]
            expected = theirs.apply_chat_template(
                messages,
                add_generation_prompt=True,
                sanitize_control_tokens=True,
                return_dict=True,
            )["input_ids"]
            assert template.prompt("x", Conversation(messages)).tolist() == expected, (name, text)
