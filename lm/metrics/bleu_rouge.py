"""Scores of generated text against references: BLEU, chrF and ROUGE."""

import itertools
import math
import types
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from lm.errors import UserError
from lm.settings import choose

References = Sequence[Sequence[str]]

# Those that need no download; the value is what they need besides sacrebleu itself.
_BLEU_TOKENIZERS = dict.fromkeys(("13a", "intl", "zh", "char", "none"))
_BLEU_TOKENIZERS |= {"ja-mecab": "sacrebleu[ja]", "ko-mecab": "sacrebleu[ko]"}


class Scored(NamedTuple):
    """A score from 0 to 100, and the signature with which others can repeat it (Post 2018)."""

    score: float
    signature: str


def bleu(predictions: Sequence[str], references: References, *, tokenizer: str = "13a") -> Scored:
    """Computes corpus BLEU (Papineni et al. 2002) by `sacrebleu`, on text that is not tokenized.

    Args:
      predictions: at least one text.
      references: for each prediction at least one; their number may differ.
      tokenizer: 13a for most languages with spaces, zh for Chinese, ja-mecab for Japanese,
        ko-mecab for Korean; intl, char, none.

    Raises:
      UserError: the tokenizer is unknown, or what it needs is not installed.
    """
    from sacrebleu.metrics import BLEU

    choose("the BLEU tokenizer", tokenizer, _BLEU_TOKENIZERS)
    try:
        metric = BLEU(tokenize=tokenizer)
    except RuntimeError:
        raise UserError(
            f"the BLEU tokenizer {tokenizer!r} needs a package that is not installed; "
            f"run: pip install '{_BLEU_TOKENIZERS[tokenizer]}'"
        ) from None
    return _corpus_score(metric, predictions, references)


def chrf(predictions: Sequence[str], references: References, *, word_order: int = 0) -> Scored:
    """Computes corpus chrF by `sacrebleu`: F2 over characters in runs of up to 6 (Popović 2015).

    Args:
      predictions, references: as for `bleu`.
      word_order: 2 counts runs of up to two words besides, which is chrF++ (Popović 2017).
    """
    from sacrebleu.metrics import CHRF

    return _corpus_score(CHRF(word_order=word_order), predictions, references)


def _corpus_score(metric, predictions: Sequence[str], references: References) -> Scored:
    assert len(predictions) == len(references)  # sacrebleu would score the shorter of the two.
    transposed = list(itertools.zip_longest(*references))  # As sacrebleu reads them, None for none.
    score = metric.corpus_score(list(predictions), transposed).score
    return Scored(score, str(metric.get_signature()))


# ROUGE -----------------------------------------------------------------------------------------

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(
    predictions: Sequence[str],
    references: References,
    *,
    tokenizer: str = "english",
    stem: bool = False,
) -> dict[str, float]:
    """Computes mean F1, 0 to 1, of "rouge1", "rouge2", "rougeL" and "rougeLsum" by `rouge-score`.

    Lin 2004. Of several references the best counts. For rougeLsum, sentences stand on lines of
    their own.

    Args:
      predictions: at least one text.
      references: for each prediction at least one.
      tokenizer: "english" is that of rouge-score, which keeps a to z and 0 to 9 alone, so that
        Chinese scores 0; "unicode" is `words_and_characters`, for every other language.
      stem: cuts the endings of English words, as is usual for CNN/DailyMail.

    Raises:
      UserError: the tokenizer is unknown, or stemming is asked of "unicode".
    """
    from rouge_score import rouge_scorer, tokenizers

    if tokenizer not in ("english", "unicode"):
        raise UserError(f"the ROUGE tokenizer {tokenizer!r} is unknown; choose english or unicode")
    if stem and tokenizer != "english":
        raise UserError(f"stem=True is for English, not the ROUGE tokenizer {tokenizer!r}")
    cut = tokenizers.DefaultTokenizer(use_stemmer=stem)
    if tokenizer == "unicode":
        cut = types.SimpleNamespace(tokenize=words_and_characters)
    scorer = rouge_scorer.RougeScorer(ROUGE_TYPES, tokenizer=cut)
    scores = [
        scorer.score_multi(list(golds), prediction)
        for prediction, golds in zip(predictions, references, strict=True)
    ]
    # fsum rounds once at the end, so the mean does not depend on the order of the predictions.
    mean = lambda name: math.fsum(score[name].fmeasure for score in scores) / len(scores)
    return {name: mean(name) for name in ROUGE_TYPES}


def words_and_characters(text: str) -> list[str]:
    """Splits text of any script into words in lower case; Chinese and kana into characters.

    Letters, digits and the marks on them are kept, and nothing else is:
    "GPT-2在2019年发布。" -> gpt 2 在 2019 年 发 布; "Straße, naïve" -> straße naïve.
    """
    tokens, before = [], "nothing"
    # Composed first: a letter with its mark is one character, wherever the text comes from.
    for character in unicodedata.normalize("NFC", text).lower():
        category = unicodedata.category(character)
        if category[0] in "LN":
            now = "character" if _is_cjk(character) else "word"
            if before == now == "word":
                tokens[-1] += character
            else:
                tokens.append(character)
            before = now
        elif category[0] == "M" and before != "nothing":
            tokens[-1] += character
        elif category != "Cf":  # Joiners and direction marks stand inside words.
            before = "nothing"
    return tokens


_CJK = ("CJK ", "IDEOGRAPHIC ", "HIRAGANA ", "KATAKANA", "HALFWIDTH KATAKANA")


def _is_cjk(letter: str) -> bool:
    """Whether it is Han or kana, which are written without spaces; Korean has spaces."""
    return unicodedata.name(letter, "").startswith(_CJK)
