import random
import warnings

import pytest
from seqeval import metrics as reference
from seqeval.scheme import IOB2, IOBES

from lm.data.tags import Entity, entities, repair
from lm.errors import UserError
from lm.metrics.span_f1 import entity_metrics

SCHEMES = {"BIO": IOB2, "BIOES": IOBES}


def draw(prefixes, seed, num_rows=30):
    """Random tags, most of them ill-formed."""
    rng = random.Random(seed)
    tags = ["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in ("PER", "LOC", "a-b"))]
    return [rng.choices(tags, k=rng.randint(0, 9)) for _ in range(num_rows)]


def near(gold, prefixes, seed):
    """Tags that are mostly right."""
    rng = random.Random(seed)
    other = draw(prefixes, seed + 1, len(gold))
    pick = lambda tag, row: rng.choice(row) if row and rng.random() < 0.3 else tag
    return [[pick(tag, row) for tag in tags] for tags, row in zip(gold, other, strict=True)]


def seqeval_metrics(gold, predicted, **mode):
    found = {"token_accuracy": reference.accuracy_score(gold, predicted)}
    for name in ("precision", "recall", "f1"):
        score = getattr(reference, f"{name}_score")
        for average in ("micro", "macro", "weighted"):
            found[f"{name}_{average}"] = score(
                gold, predicted, average=average, zero_division=0, **mode
            )
    report = reference.classification_report(
        gold, predicted, output_dict=True, zero_division=0, **mode
    )
    for kind in report.keys() - {"micro avg", "macro avg", "weighted avg"}:
        for name, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            found[f"{name}/{kind}"] = report[kind][key]
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "scheme, prefixes", [(None, "BI"), (None, "BIES"), ("BIO", "BI"), ("BIOES", "BIES")]
)
def test_scores_are_those_of_seqeval(scheme, prefixes, seed):
    gold = draw(prefixes, seed, num_rows=30 if seed else 3)
    if seed % 2:
        gold = [repair(tags, scheme or "BIOES")[0] for tags in gold]
    mode = dict(mode="strict", scheme=SCHEMES[scheme]) if scheme else {}
    for predicted in (near(gold, prefixes, seed), [["O"] * len(tags) for tags in gold], gold):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It warns of types that it divides by zero for.
            expected = seqeval_metrics(gold, predicted, **mode)
        assert entity_metrics(gold, predicted, scheme) == pytest.approx(expected, abs=1e-12)


def test_the_order_of_rows_changes_no_bit():
    gold = draw("BIES", 0)
    predicted = near(gold, "BIES", 1)
    order = random.Random(2).sample(range(30), 30)
    assert entity_metrics(gold, predicted) == entity_metrics(
        [gold[i] for i in order], [predicted[i] for i in order]
    )


TABLE = [  # Tags; what conlleval sees; what is well-formed BIOES; repaired to BIO and to BIOES.
    ("O O", "", "", "O O", "O O"),
    ("I-A I-A O", "A02", "", "B-A I-A O", "B-A E-A O"),
    ("B-A I-B B-B", "A01 B12 B23", "", "B-A B-B B-B", "S-A S-B S-B"),
    ("B-A I-A", "A02", "", "B-A I-A", "B-A E-A"),
    ("B-A E-A S-A", "A02 A23", "A02 A23", None, "B-A E-A S-A"),
    ("E-A E-A B-A", "A01 A12 A23", "", None, "S-A S-A S-A"),
    ("B-A O I-A", "A01 A23", "", "B-A O B-A", "S-A O S-A"),
    ("B I O", "02", "", "B I O", "B E O"),
    ("", "", "", "", ""),
]


def spans(text):
    return [Entity(word[:-2], int(word[-2]), int(word[-1])) for word in text.split()]


@pytest.mark.parametrize("tags, lenient, strict, bio, bioes", TABLE)
def test_entities_and_repairs_as_a_table(tags, lenient, strict, bio, bioes):
    tags = tags.split()
    assert entities(tags) == spans(lenient)
    assert entities(tags, "BIOES") == spans(strict)
    for scheme, expected in (("BIO", bio), ("BIOES", bioes)):
        if expected is not None:
            repaired, count = repair(tags, scheme)
            assert repaired == expected.split()
            assert count == sum(a != b for a, b in zip(tags, repaired, strict=True))


@pytest.mark.parametrize("scheme, prefixes", [("BIO", "BI"), ("BIOES", "BIES")])
def test_a_repair_keeps_the_entities_and_makes_them_well_formed(scheme, prefixes):
    for tags in draw(prefixes, 0, 200):
        repaired, _ = repair(tags, scheme)
        assert entities(repaired, scheme) == entities(tags)
        assert repair(repaired, scheme) == (repaired, 0)


@pytest.mark.parametrize("tag", ["X-PER", "PER", "", "BI-PER", "o", "O-PER", "标签"])
def test_a_tag_of_no_scheme_is_named(tag):
    with pytest.raises(UserError, match=f"'{tag}' is not of the scheme BIOES"):
        entities(["O", tag])


def test_prefixes_and_schemes_are_checked():
    with pytest.raises(UserError, match="'E-PER' is not of the scheme BIO: write O, B-TYPE"):
        entities(["O", "E-PER"], "BIO")
    with pytest.raises(UserError, match="'BIEOS' is unknown; did you mean 'BIOES'"):
        repair(["O"], "BIEOS")


def test_a_type_that_predictions_alone_have_counts():
    found = entity_metrics([["B-A", "O"]], [["B-A", "B-B"]])
    assert (found["f1_macro"], found["f1/B"], found["token_accuracy"]) == (0.5, 0, 0.5)
    assert (found["precision_weighted"], found["precision_micro"]) == (1, 0.5)


def test_rows_without_entities_score_nothing():
    found = entity_metrics([["O", "O"], []], [["O", "O"], []])
    assert found.pop("token_accuracy") == 1
    assert set(found.values()) == {0}
