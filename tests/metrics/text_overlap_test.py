import random
import sys

import pytest
import sacrebleu
from rouge_score import rouge_scorer

from lm.errors import UserError
from lm.metrics.bleu_rouge import bleu, chrf, rouge, words_and_characters

TEXT = "The cat's café sat; on THE mat running runs 3.5 “quoted” re-read\nend. dogs"
ENGLISH = TEXT.split(" ")
CHINESE = list("今天天气很好我们去公园散步吧GPT-2 模型。")


def draw(words, glue, seed=0, num_texts=20):
    rng = random.Random(seed)
    text = lambda: glue.join(rng.choices(words, k=rng.randint(0, 12)))
    return [text() for _ in range(num_texts)], [[text(), text()] for _ in range(num_texts)]


@pytest.mark.parametrize("tokenizer", ["13a", "zh", "intl", "char", "none"])
def test_bleu_is_that_of_sacrebleu(tokenizer):
    words, glue = (CHINESE, "") if tokenizer in ("zh", "char") else (ENGLISH, " ")
    predictions, references = draw(words, glue)
    found = bleu(predictions, references, tokenizer=tokenizer)

    streams = [list(stream) for stream in zip(*references, strict=True)]
    assert found.score == sacrebleu.corpus_bleu(predictions, streams, tokenize=tokenizer).score > 1
    assert f"nrefs:2|case:mixed|eff:no|tok:{tokenizer}|smooth:exp|version:" in found.signature


def test_chinese_needs_its_tokenizer():
    predictions, references = ["今天天气很好。"], [["今天天气很好啊。"]]
    assert bleu(predictions, references).score == 0
    assert bleu(predictions, references, tokenizer="zh").score > 50


def test_a_prediction_may_have_more_references_than_another():
    found = bleu(["a b c d e", "x y z"], [["a b c d f"], ["x y", "x y z"]])
    assert "nrefs:var" in found.signature
    assert found.score == bleu(["x y z", "a b c d e"], [["x y", "x y z"], ["a b c d f"]]).score


@pytest.mark.parametrize("word_order", [0, 2])
def test_chrf_is_that_of_sacrebleu(word_order):
    predictions, references = draw(ENGLISH, " ")
    streams = [list(stream) for stream in zip(*references, strict=True)]
    found = chrf(predictions, references, word_order=word_order)
    expected = sacrebleu.corpus_chrf(predictions, streams, word_order=word_order).score
    assert found.score == expected > 1
    assert f"nc:6|nw:{word_order}" in found.signature


def test_a_tokenizer_that_is_not_installed_says_how_to_get_it(monkeypatch):
    module = sys.modules.get("sacrebleu.tokenizers.tokenizer_ja_mecab")
    if module is None:
        import sacrebleu.tokenizers.tokenizer_ja_mecab as module
    monkeypatch.setattr(module, "MeCab", None)
    with pytest.raises(UserError, match=r"^[^\n]*'ja-mecab'.*pip install 'sacrebleu\[ja\]'$"):
        bleu(["猫"], [["猫"]], tokenizer="ja-mecab")
    with pytest.raises(UserError, match="'mecab' is unknown; choose 13a"):
        bleu(["猫"], [["猫"]], tokenizer="mecab")


@pytest.mark.parametrize("stem", [False, True])
def test_rouge_of_english_is_that_of_its_package(stem):
    predictions, references = draw(ENGLISH, " ")
    found = rouge(predictions, references, stem=stem)

    scorer = rouge_scorer.RougeScorer(list(found), use_stemmer=stem)
    scores = [scorer.score_multi(r, p) for p, r in zip(predictions, references, strict=True)]
    expected = {name: sum(s[name].fmeasure for s in scores) / len(scores) for name in found}
    assert found == pytest.approx(expected, rel=1e-12)
    assert set(found) == {"rouge1", "rouge2", "rougeL", "rougeLsum"}
    assert found["rougeL"] != found["rougeLsum"]


def test_rouge_counts_chinese_characters():
    pair = ["今天天气很好。"], [["今天天气不好！"]]
    assert set(rouge(*pair).values()) == {0}
    found = rouge(*pair, tokenizer="unicode")
    # 今 天 天 气 好 of six; 今天 天天 天气 of five.
    assert found == pytest.approx(
        {"rouge1": 5 / 6, "rouge2": 3 / 5, "rougeL": 5 / 6, "rougeLsum": 5 / 6}
    )


def test_the_order_of_texts_changes_no_bit():
    predictions, references = draw(ENGLISH, " ")
    order = random.Random(1).sample(range(20), 20)
    turned = [predictions[i] for i in order], [references[i] for i in order]
    for metric in (bleu, chrf, rouge):
        assert metric(predictions, references) == metric(*turned)


@pytest.mark.parametrize(
    "text, tokens",
    [
        ("Don't re-read 3.5!", "don t re read 3 5"),
        ("GPT-2在2019年发布。", "gpt 2 在 2019 年 发 布"),
        ("カタカナー・ひらがな、人々", "カ タ カ ナ ー ひ ら が な 人 々"),
        ("か\u3099", "が"),  # Composed.
        ("Straße, naïve nai\u0308ve ÉTÉ", "straße naïve naïve été"),
        ("مَرْحَبًا، العالم", "مَرْحَبًا العالم"),
        ("می\u200cخواهم", "میخواهم"),  # A zero-width non-joiner stands inside the word.
        ("हिन्दी में", "हिन्दी में"),
        ("한국어 텍스트", "한국어 텍스트"),
        ("ok 👍🏽❤️ ok", "ok ok"),
        ("", ""),
    ],
)
def test_words_and_characters_as_a_table(text, tokens):
    assert words_and_characters(text) == tokens.split()


def test_both_tokenizers_agree_on_plain_english():
    predictions, references = draw([w for w in ENGLISH if w.isascii()], " ")
    assert rouge(predictions, references) == rouge(predictions, references, tokenizer="unicode")


def test_rouge_refuses_what_it_cannot_do():
    with pytest.raises(UserError, match="'zh' is unknown; choose english or unicode"):
        rouge(["a"], [["a"]], tokenizer="zh")
    with pytest.raises(UserError, match="stem=True is for English"):
        rouge(["a"], [["a"]], tokenizer="unicode", stem=True)
