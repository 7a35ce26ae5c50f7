"""A folder of `transformers` with a GPT-2 of random weights, which all sides of a benchmark read.

Its tokens are one to three ASCII characters, so that each is text of its own however they follow
each other, and no side has to hold one back until a character is whole.
"""

import itertools
import pathlib
import string
import sysconfig

END = "<|endoftext|>"


def make(
    folder: pathlib.Path,
    *,
    num_layers: int,
    num_heads: int,
    model_dim: int,
    vocab_size: int,
    max_len: int = 1024,
) -> None:
    """Writes the model, in float32, and a byte-level tokenizer of `vocab_size` tokens."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=vocab_size,
        n_positions=max_len,
        n_embd=model_dim,
        n_layer=num_layers,
        n_head=num_heads,
        bos_token_id=vocab_size - 1,
        eos_token_id=vocab_size - 1,
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    _tokenizer(vocab_size).save_pretrained(folder)


def texts(num: int, num_characters: int) -> list[str]:
    """Takes as many different pieces of code from Python's own standard library."""
    code = "".join(
        path.read_text(errors="ignore")
        for path in sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))
    )
    code = code.encode("ascii", "ignore").decode()
    starts = range(0, len(code), len(code) // num)
    return [code[at : at + num_characters] for at in starts][:num]


def _tokenizer(vocab_size: int):
    import tokenizers
    import transformers

    pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = ["Ġ", "Ċ", *string.digits, *string.ascii_letters, *string.punctuation]
    pairs = itertools.product(letters, letters)
    triples = ((a + b, c) for a, b, c in itertools.product(letters, repeat=3))
    singles = sorted(pre_tokenizer.alphabet())
    merges = list(itertools.islice(itertools.chain(pairs, triples), vocab_size - len(singles) - 1))
    pieces = [*singles, *(a + b for a, b in merges), END]
    assert len({*pieces}) == vocab_size, "a vocabulary of other sizes repeats pieces"
    vocab = {piece: i for i, piece in enumerate(pieces)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
    made.pre_tokenizer, made.decoder = pre_tokenizer, tokenizers.decoders.ByteLevel()
    # CTranslate2 reads no folder whose tokenizer has no unknown token.
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=END, eos_token=END, unk_token=END
    )
