"""Chats of runs that were made before `task.date` was a key: the ids that they were trained on."""

import pytest
import tokenizers as hf
from tokenizers import decoders, models, pre_tokenizers

from lm.chat.conversations import Conversation
from lm.errors import UserError
from lm.formats.fields import Record
from lm.models.families import FAMILIES
from lm.tasks.factory import make_task
from lm.tasks.text import TextInputs
from lm.tokenizers import sentencepiece_proto
from lm.tokenizers.tokenizers import ByteTokenizer, HuggingFaceTokenizer, SentencePieceTokenizer
from tests import tiny_tokenizers

# What such a run has in its config.json, of a tokenizer that brought no template.
PLAIN = """\
{% for message in messages -%}
{% if message.role == "assistant" %}Assistant: {{ message.content }}{{ eos_token }}
{% elif message.role == "user" %}User: {{ message.content }}
{% else %}{{ message.content }}
{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}"""
MESSAGES = [
    {"role": "system", "content": "the"},
    {"role": "user", "content": " hi </s>"},
    {"role": "assistant", "content": " the"},
    {"role": "user", "content": "the\n"},
    {"role": "assistant", "content": "the the"},
]


def _byte_level():
    """Merges across the borders of answers: of "Assistant: the" the end to one token."""
    pairs = [("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e"), ("Ċ", "U"), ("Ċ", "A"), (":", "Ġ"), (":", "Ċ")]
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in pairs)]
    library = hf.Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, pairs))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(["<s>", "</s>"])
    return HuggingFaceTokenizer({"tokenizer.json": library.to_str().encode()})


def _sentencepiece():
    """As Llama 2's, with a space before each text that it is given."""
    model = tiny_tokenizers.tokenizer_of("sentencepiece llama").model
    proto = sentencepiece_proto.ModelProto.FromString(model)
    for name in ("<s>", "</s>"):
        proto.pieces.add(piece=name, score=0.0, type=sentencepiece_proto.CONTROL)
    trainer = proto.trainer_spec
    trainer.vocab_size = len(proto.pieces)
    trainer.bos_id, trainer.eos_id = len(proto.pieces) - 2, len(proto.pieces) - 1
    return SentencePieceTokenizer(proto.SerializeToString())


# By the code that made such runs: the parts of a text, every second one of which is an answer.
BYTE_LEVEL = """
263 83 71 68 259 82 68 81 261 220 71 72 220 27 14 82 29 260 82 82 72 82 83 64 77 83 261
258 264 198
52 82 68 81 25 258 198 260 82 82 72 82 83 64 77 83 261
83 71 68 258 264 198"""
OF_SENTENCEPIECE = """
275 259 11 86 271 267 115 59 264 264 266 268 264 61 48 271 63 11 66 271 271 268 271 265 98 269 265\
 59 264
264 259 276 264 11
264 86 271 267 115 59 259 11 11 66 271 271 268 271 265 98 269 265\
 59 264
259 259 276 264 11"""
# And the prompt for the last answer.
BYTE_LEVEL_ASKS = """
263 83 71 68 259 82 68 81 261 220 71 72 220 27 14 82 29 260 82 82 72 82 83 64 77 83 261
258 264 259 82 68 81 25 258 198 260 82 82 72 82 83 64 77 83 261"""
SENTENCEPIECE_ASKS = """
275 259 11 86 271 267 115 59 264 264 266 268 264 61 48 271 63 11 66 271 271 268 271 265 98 269 265\
 59 264
259 276 264 11 86 271 267 115 59 259 11 11 66 271 271 268 271 265 98 269 265 59 264"""


def _task(tokenizer, template=PLAIN):
    inputs = TextInputs(tokenizer, FAMILIES["gpt2"], num_types=1, seq_len=128, truncate=False)
    return make_task(dict(kind="chat", messages="messages", template=template), inputs)


@pytest.mark.parametrize(
    ("tokenizer", "row", "prompt"),
    [
        (_byte_level, BYTE_LEVEL, BYTE_LEVEL_ASKS),
        (_sentencepiece, OF_SENTENCEPIECE, SENTENCEPIECE_ASKS),
    ],
)
def test_rows_and_prompts_are_those_that_were_trained(tokenizer, row, prompt):
    task = _task(tokenizer())

    [found] = task.encode(Record("x", {"messages": MESSAGES}))
    asked = task.asked_ids(Record("x", {"messages": MESSAGES[:4]}))

    parts = [list(map(int, line.split())) for line in row.strip().split("\n")]
    assert found["tokens_BL"].tolist() == [i for ids in parts for i in ids]
    learned = [i % 2 for i, ids in enumerate(parts) for _ in ids]
    assert found["weights_BL"].tolist() == [*learned[1:], 0]
    assert asked.tolist() == list(map(int, prompt.split()))


def test_a_template_does_not_read_contents():
    task = _task(ByteTokenizer(), "{{ messages[0].content | trim | upper }}")
    assert task.prompt_ids(" a ").tolist() == [ByteTokenizer.bos_id, *(byte + 3 for byte in b" a ")]


def test_a_text_for_others_to_encode_has_the_first_token():
    template, conversation = _task(ByteTokenizer()).template, Conversation(MESSAGES[1:2])
    text = template.text("x", conversation, is_continued=False)
    assert text == "<s>User:  hi </s>\nAssistant: "


def test_rewritten_turns_are_refused_as_they_were():
    task = _task(ByteTokenizer(), "{{ messages | length }}")
    with pytest.raises(UserError, match="x: the chat template writes earlier turns differently"):
        task.encode(Record("x", {"messages": MESSAGES}))
