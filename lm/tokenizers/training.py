"""Trains a tokenizer on text."""

import io
from collections.abc import Iterable, Sequence

import sentencepiece

from lm.errors import UserError
from lm.settings import choose
from lm.tokenizers.tokenizers import SentencePieceTokenizer


def train_sentencepiece(
    texts: Iterable[str],
    *,
    algorithm: str,
    vocab_size: int,
    user_symbols: Sequence[str],
    mask: bool = False,
    num_sentinels: int = 0,
) -> SentencePieceTokenizer:
    """Trains on texts; the same texts give the same model.

    Bytes 0 to 255 have pieces of their own, so that no text is unknown, and nothing is normalised,
    so that decoding gives the text back. Ids: pad 0, bos 1, eos 2, unk 3, then `<mask>` if asked
    for, the sentinels, which count down as T5's do, and the user's symbols.

    Args:
      texts: to learn from.
      algorithm: bpe or unigram.
      vocab_size: pieces, all the special ones included.
      user_symbols: strings that are one token wherever they stand in a text.
      mask: whether there is a `<mask>`, which no text can spell.
      num_sentinels: `<extra_id_n>` to `<extra_id_0>`, which no text can spell either.

    Raises:
      UserError: the algorithm is unknown, or the vocabulary does not fit the texts.
    """
    choose("tokenizer.algorithm", algorithm, ("bpe", "unigram"))
    model, raised = io.BytesIO(), []

    def guarded():
        try:
            yield from texts
        except BaseException as error:  # Ctrl-C too: of each, SentencePiece makes a RuntimeError.
            raised.append(error)
            raise

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=guarded(),
            model_writer=model,
            model_type=algorithm,
            vocab_size=vocab_size,
            user_defined_symbols=list(user_symbols),
            control_symbols=["<mask>"] * mask
            + [f"<extra_id_{i}>" for i in reversed(range(num_sentinels))],
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            pad_piece="<pad>",
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=2**30,  # Longer texts would be left out without a word.
            num_threads=2,  # A constant: unigram's sums depend on it.
            minloglevel=2,  # Errors; by default it logs each step to stderr.
        )
    except RuntimeError as error:
        if raised:
            raise raised[0] from None
        reason = str(error).splitlines()[0].rpartition("] ")[2]  # Without the place in its source.
        reason = reason or "256 bytes and the special pieces alone are more"
        raise UserError(
            f"tokenizer.vocab_size={vocab_size} cannot be trained on this text: {reason}"
        ) from None
    return SentencePieceTokenizer(model.getvalue())
