"""What `benchmarks.finetuning` trains: folders of `transformers` with random weights, and records.

Both sides start from the same folder and read the same lines.
"""

import collections
import json
import pathlib
import random
import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

VOCAB_SIZE = 30522  # BERT's.
BATCH_SIZE, NUM_EPOCHS, NUM_VALIDATION = 32, 1, 400
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "</s>")
_CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}</s>{% endgeneration %}{% else %}{{ m.content }} {% endif %}{% endfor %}"
)
Record = dict[str, Any]


class Case(NamedTuple):
    """A run that both sides make.

    model: which folder it starts from.
    record: of a text's words.
    num_words: fewest and most words of a text.
    num_train: records.
    recipe: the config's file with its arguments.
    overrides: of the config, besides those that say where things are.
    target: see `results.emit`; of the whole run's second start, with its memory.
    first_target: of its first start.
    """

    model: str
    record: Callable[[Sequence[str]], Record]
    num_words: tuple[int, int]
    num_train: int
    recipe: str
    overrides: dict[str, Any]
    target: dict[str, float]
    first_target: dict[str, float]


def _classified(words: Sequence[str]) -> Record:
    long = sum(map(len, words)) > 5 * len(words)
    return {"text": " ".join(words), "label": "long" if long else "short"}


def _tagged(words: Sequence[str]) -> Record:
    tag = lambda word: "B-NAME" if word[0].isupper() else "B-NUM" if word[0].isdigit() else "O"
    return {"tokens": list(words), "tags": [tag(word) for word in words]}


def _summed_up(words: Sequence[str]) -> Record:
    return {"source": " ".join(words), "target": " ".join(words[::2])}


def _talked(words: Sequence[str]) -> Record:
    half = len(words) // 2
    turns = ("user", words[:half]), ("assistant", words[half:])
    return {"messages": [{"role": role, "content": " ".join(text)} for role, text in turns]}


_ENCODER_TARGETS = ({"ratio": 1.5, "memory_ratio": 1.0}, {"ratio": 1.2})
CASES = {
    "classification": Case(
        *("encoder", _classified, (5, 60), 2000, "classify.py", {}), *_ENCODER_TARGETS
    ),
    "tagging": Case(*("encoder", _tagged, (5, 60), 2000, "tag.py", {}), *_ENCODER_TARGETS),
    "seq2seq": Case(
        *("t5", _summed_up, (45, 50), 1000, "seq2seq.py"),
        {"task.num_beams": 1, "task.target_len": 32, "task.label_smoothing": 0.0},
        *({"ratio": 1.4, "memory_ratio": 1.0}, {}),
    ),
    "lora": Case(
        *("llama", _talked, (20, 100), 1000, "chat.py"),
        {"lora.rank": 8, "lora.targets": "(attention|mlp)/.*/kernel$"},
        *({"ratio": 1.5, "memory_ratio": 1.0 / 0.9}, {}),
    ),
    "predictions": Case(
        *("classifier", _classified, (5, 60), 5000, "evaluate.py", {"data.source": "files"}),
        *({"ratio": 2.0, "memory_ratio": 1.0 / 0.7}, {}),
    ),
}


def make(name: str, folder: pathlib.Path, num_train: int | None = None) -> None:
    """Writes `folder`/model, `folder`/train.jsonl and `folder`/validation.jsonl of a case."""
    case, rng = CASES[name], random.Random(0)
    words = list(words_of_code())
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"train": num_train or case.num_train, "validation": NUM_VALIDATION}
    for split, num in sizes.items():
        with (folder / f"{split}.jsonl").open("w") as file:
            for _ in range(num):
                length = rng.randint(*case.num_words)
                first = rng.randrange(len(words) - length)
                file.write(json.dumps(case.record(words[first : first + length])) + "\n")
    _make_model(case.model, words, folder / "model")


def records(folder: pathlib.Path, split: str) -> list[Record]:
    """Reads back what `make` wrote."""
    return [json.loads(line) for line in (folder / f"{split}.jsonl").open()]


def words_of_code() -> Iterator[str]:
    """Yields the words of Python's own standard library, in their order."""
    for path in sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield from re.findall(r"[A-Za-z]+|\d+", path.read_text(errors="ignore"))


def _make_model(kind: str, words: Sequence[str], folder: pathlib.Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    ids = {name: i for i, name in enumerate(_SPECIAL)}
    common = dict(vocab_size=VOCAB_SIZE, pad_token_id=0, eos_token_id=ids["</s>"])
    bert = dict(num_hidden_layers=6, hidden_size=384, num_attention_heads=12)
    bert |= dict(intermediate_size=1536, **common)
    models = {
        "encoder": lambda: transformers.BertModel(transformers.BertConfig(**bert)),
        "classifier": lambda: transformers.BertForSequenceClassification(
            transformers.BertConfig(**bert, id2label={0: "long", 1: "short"})
        ),
        "t5": lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                **common,
                **dict(d_model=256, num_layers=4, num_heads=4, d_kv=64, d_ff=1024),
                decoder_start_token_id=0,
            )
        ),
        "llama": lambda: transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                **common,
                **dict(hidden_size=512, num_hidden_layers=8, num_attention_heads=8),
                **dict(num_key_value_heads=4, intermediate_size=1408, bos_token_id=ids["[CLS]"]),
                **dict(max_position_embeddings=512, tie_word_embeddings=True),
            )
        ),
    }
    models[kind]().save_pretrained(folder)
    make_tokenizer(words, is_encoder=kind in ("encoder", "classifier")).save_pretrained(folder)


def make_tokenizer(words: Sequence[str], *, is_encoder: bool):
    """Makes a WordPiece tokenizer of the commonest words, lower-cased, and of single letters."""
    import tokenizers
    import transformers

    letters = sorted({letter for word in words for letter in word.lower()})
    counts = collections.Counter(word.lower() for word in words)
    pieces = [*_SPECIAL, *letters, *(f"##{letter}" for letter in letters), ":", "."]
    pieces += [word for word, _ in counts.most_common(VOCAB_SIZE) if word not in {*pieces}]
    pieces += [f"[unused{i}]" for i in range(VOCAB_SIZE)]
    vocab = {piece: i for i, piece in enumerate(pieces[:VOCAB_SIZE])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    frame = "[CLS] $A [SEP]" if is_encoder else "$A </s>"
    specials = [(name, vocab[name]) for name in ("[CLS]", "[SEP]", "</s>")]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=frame, special_tokens=specials
    )
    names = dict(pad_token="[PAD]", unk_token="[UNK]", eos_token="</s>")
    if is_encoder:
        names = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    made.chat_template = _CHAT_TEMPLATE
    return made
