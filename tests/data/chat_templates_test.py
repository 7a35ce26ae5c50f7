"""Rows, prompts and answers are those of `transformers`, for templates of every manner."""

import datetime
import functools
import pathlib
import re

import pytest
import tokenizers as tokenizers_lib
import transformers

from lm.data import tokenizers
from lm.data.chat import ASKED_OTHERWISE, ChatTemplate
from lm.data.conversations import Conversation
from lm.errors import UserError
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEMPLATES)
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
