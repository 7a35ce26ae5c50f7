"""Exact match and F1 of extracted answers: SQuAD 1.1 and 2.0, and CMRC 2018 for Chinese."""

import difflib
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

Score = Callable[[str, Sequence[str]], float]
Answers = Mapping[str, Sequence[str]]


def squad_metrics(predictions: Mapping[str, str], golds: Answers) -> dict[str, float]:
    """Gives percentages over the questions of `golds`, as the official scripts give them.

    A set that has a question without an answer is taken for SQuAD 2.0 (Rajpurkar et al. 2018),
    whose script ignores gold answers that are nothing but articles and punctuation; all others for
    SQuAD 1.1 (Rajpurkar et al. 2016).

    Args:
      predictions: an answer, or "" for none, by the question's id; one that is missing scores 0.
      golds: the right answers by id; no answer at all for what cannot be answered.

    Returns:
      "exact_match" and "f1"; for 2.0 also these two over the questions that have an answer
      (HasAns_) and over those that have none (NoAns_), where there are any.
    """
    if all(golds.values()):
        return _percentages(predictions, golds, exact_match, f1)
    # Parts are told apart by the golds as they were, as the official script does.
    meant = {key: [gold for gold in answers if _words(gold)] for key, answers in golds.items()}
    metrics = _percentages(predictions, meant, exact_match, f1)
    for part, wanted in (("HasAns", True), ("NoAns", False)):
        of_part = {key: meant[key] for key in meant if bool(golds[key]) == wanted}
        if of_part:
            scores = _percentages(predictions, of_part, exact_match, f1)
            metrics |= {f"{part}_{name}": score for name, score in scores.items()}
    return metrics


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """Gives 1 if the prediction has the words of a gold answer, or none without any gold; else 0.

    Words are in lower case, without punctuation and English articles: "The U.S.!" is `us`.
    """
    return float(any(_words(prediction) == _words(gold) for gold in golds or [""]))


def f1(prediction: str, golds: Sequence[str]) -> float:
    """Gives the best F1, from 0 to 1, of the prediction's words against those of a gold answer.

    "the black cat" and "a black dog" share one word of two: 0.5. Where no gold is given, it is the
    exact match.
    """
    if not golds:
        return exact_match(prediction, golds)
    return max(_overlap(_words(prediction), _words(gold)) for gold in golds)


def _overlap(predicted: list[str], gold: list[str]) -> float:
    num_common = (Counter(predicted) & Counter(gold)).total()  # As multisets.
    return 2 * num_common / (len(predicted) + len(gold)) if num_common else 0.0


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _words(text: str) -> list[str]:
    text = text.lower().translate(_NO_PUNCTUATION)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _percentages(
    predictions: Mapping[str, str], golds: Answers, exact: Score, f1: Score
) -> dict[str, float]:
    """Averages over all questions, of which one without a prediction scores 0."""
    metrics = {}
    for name, score in {"exact_match": exact, "f1": f1}.items():
        scores = (score(predictions[k], golds[k]) for k in golds if k in predictions)
        metrics[name] = 100 * math.fsum(scores) / len(golds)  # fsum: equal in any order.
    return metrics


# Chinese ---------------------------------------------------------------------------------------

# What the official script drops. It lists no other punctuation, and neither may we.
_CMRC_DROPPED = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")


def cmrc_metrics(predictions: Mapping[str, str], golds: Answers) -> dict[str, float]:
    """Gives "exact_match" and "f1" in percent, of characters as units, as CMRC 2018 counts them.

    The rules are those of the official script (github.com/ymcui/cmrc2018, version 5; Cui et al.
    2019). Only its search for sentences inside a run of Latin script, which needs a trained model
    of NLTK, is left out. Arguments as for `squad_metrics`; every question has an answer.
    """
    return _percentages(predictions, golds, cmrc_exact_match, cmrc_f1)


def cmrc_exact_match(prediction: str, golds: Sequence[str]) -> float:
    """Gives 1 if the prediction is a gold answer but for case and Chinese punctuation, else 0."""
    return float(any(_cmrc_text(prediction) == _cmrc_text(gold) for gold in golds))


def cmrc_f1(prediction: str, golds: Sequence[str]) -> float:
    """Gives the best F1, from 0 to 1, by the longest run of units that prediction and a gold share.

    A unit is a Chinese character, or a word between them: "在2018年" and "2018年底" share the run
    `2018 年`, two units of three: 2/3.
    """
    return max(_cmrc_overlap(_cmrc_units(prediction), _cmrc_units(gold)) for gold in golds)


def _cmrc_text(text: str) -> str:
    return text.lower().strip().translate(_CMRC_DROPPED)


def _cmrc_units(text: str) -> list[str]:
    from nltk.tokenize import NLTKWordTokenizer  # Slow to import; rouge-score brings it along.

    units = []
    for piece in re.split("([\u4e00-\u9fa5])", _cmrc_text(text)):  # The range of the script.
        is_chinese = re.match("[\u4e00-\u9fa5]", piece)
        units += [piece] if is_chinese else NLTKWordTokenizer().tokenize(piece)
    return units


def _cmrc_overlap(predicted: list[str], gold: list[str]) -> float:
    # Without `autojunk`, which would skip what is frequent in a long answer.
    matcher = difflib.SequenceMatcher(None, predicted, gold, autojunk=False)
    longest = matcher.find_longest_match().size
    return 2 * longest / (len(predicted) + len(gold)) if longest else 0.0
