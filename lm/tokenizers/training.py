"""Trains a tokenizer on text."""

import collections
import io
import re
from collections.abc import Iterable, Sequence

import numpy as np
import sentencepiece

from lm.errors import UserError
from lm.settings import choose
from lm.system.progress_bar import say
from lm.tokenizers.tokenizers import SentencePieceTokenizer

COVERAGE = 0.9995  # SentencePiece's own default of character_coverage.
_LEAST_COVERAGE = 0.98  # SentencePiece takes no less.
# Of the pieces that are neither bytes nor special, what characters get where there are too many.
# Of 1.7 million characters of Chinese news, 2,048 pieces hold 2.99, 3.16 and 3.13 bytes a token
# with 50, 70 and 85 %, and 4,000 pieces 3.79, 3.73 and 3.53.
_SHARE_OF_CHARACTERS = 0.7
_NO_PIECE = {"\t", "\0"}  # SentencePiece gives them none.
_ALPHABET = 1000  # No alphabet has more, and its characters are few beside the other pieces.


def train_sentencepiece(
    texts: Iterable[str],
    *,
    algorithm: str,
    vocab_size: int,
    user_symbols: Sequence[str],
    character_coverage: float = COVERAGE,
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
      character_coverage: the commonest characters, which make up this share of the text, have
        pieces of their own, and bytes spell the others. Where so many would leave hardly any room,
        as those of Chinese in a small vocabulary, they are fewer, and a line says so.
      mask: whether there is a `<mask>`, which no text can spell.
      num_sentinels: `<extra_id_n>` to `<extra_id_0>`, which no text can spell either.

    Raises:
      UserError: the algorithm is unknown, or the vocabulary does not fit the texts.
    """
    choose("tokenizer.algorithm", algorithm, ("bpe", "unigram"))
    num_needed = 256 + 4 + mask + num_sentinels + len(user_symbols)
    if vocab_size <= num_needed:
        raise UserError(
            f"tokenizer.vocab_size={vocab_size} leaves no room: 256 bytes and the special pieces "
            f"alone are {num_needed}; raise it"
        )
    settings = dict(
        model_type=algorithm,
        vocab_size=vocab_size,
        user_defined_symbols=list(user_symbols),
        control_symbols=["<mask>"] * mask
        + [f"<extra_id_{i}>" for i in reversed(range(num_sentinels))],
    )
    # Without the default, which a model would keep as one that was asked for: other bytes.
    coverage = {"character_coverage": character_coverage} if character_coverage != COVERAGE else {}
    texts, room = list(texts), vocab_size - num_needed
    few = max(1, int(_SHARE_OF_CHARACTERS * room))
    most = max(few, min(room, _ALPHABET))
    is_usual = character_coverage >= _LEAST_COVERAGE
    if is_usual and len(set().union(*texts) - _NO_PIECE) <= most:
        return _train(texts, **coverage, **settings)
    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
        counts.update(text)
    asked = _commonest(counts, character_coverage)
    if len(asked) <= most:
        if is_usual:
            return _train(texts, **coverage, **settings)
        return _train_on(texts, asked, settings)
    try:
        tokenizer = _train_on(texts, kept := asked[:few], settings)
    except UserError:  # The text has too few longer pieces, so that there is room.
        tokenizer = _train_on(texts, kept := asked[:room], settings)
    if len(kept) < len(asked):
        share = sum(counts[c] for c in kept) / counts.total()
        say(
            f"tokenizer.character_coverage={character_coverage} asks for {len(asked):,} "
            f"characters, which leave too little room in tokenizer.vocab_size={vocab_size}: the "
            f"commonest {len(kept):,}, {share:.2%} of the text, get pieces, and bytes spell the "
            "others"
        )
    return tokenizer


def _commonest(counts: collections.Counter[str], share: float) -> list[str]:
    """Lists the commonest characters, until they make up a share of the text.

    {"a": 6, "b": 3, "c": 1} and 0.9 -> ["a", "b"]
    """
    found, size, total = [], 0, counts.total() - counts["\0"]
    for character in sorted(counts, key=lambda c: (-counts[c], c)):
        if np.float32(size / total) >= np.float32(share):  # As SentencePiece counts.
            break
        size += counts[character] * (character != "\0")
        found += [character] * (character not in _NO_PIECE)
    return found


def _train_on(texts: Iterable[str], characters: Sequence[str], settings) -> SentencePieceTokenizer:
    """Trains on what a text has of these characters, all of which get pieces."""
    known = re.compile(f"[{re.escape(''.join(characters))}]+")
    parts = (part for text in texts for part in known.findall(text))
    return _train(parts, character_coverage=1.0, **settings)


def _train(texts: Iterable[str], **settings) -> SentencePieceTokenizer:
    """Trains with what all of ours have; raises UserError where SentencePiece refuses."""
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
            **settings,
        )
    except RuntimeError as error:
        if raised:
            raise raised[0] from None
        reason = str(error).splitlines()[0].rpartition("] ")[2]  # Without the place in its source.
        raise UserError(
            f"tokenizer.vocab_size={settings['vocab_size']} cannot be trained on this text: "
            f"{reason or 'SentencePiece does not say why'}"
        ) from None
    return SentencePieceTokenizer(model.getvalue())
