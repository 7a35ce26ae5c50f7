import dataclasses
import math

import pytest

from lm.corpus import source_weights
from lm.errors import UserError

ROWS, TOKENS = {"en": 1000, "zh": 10}, {"en": 64_000, "zh": 640}


def settings(en=1.0, zh=1.0, temperature=0.0, stages=(), max_epochs=0.0):
    weights, epochs = {"en": en, "zh": zh}, {"en": 0.0, "zh": max_epochs}
    return source_weights.Settings(
        weights=weights, temperature=temperature, stages=stages, max_epochs=epochs
    )


def make(num_steps=10, batch_size=16, **changes):
    of = settings(**changes)
    source_weights.check(of, num_steps)
    sizes = dict(num_rows=ROWS, num_tokens=TOKENS)
    return source_weights.make_mixture(of, **sizes, num_steps=num_steps, batch_size=batch_size)


def counts(mixture):
    return [stage.counts for stage in mixture.stages]


def test_only_the_ratios_of_weights_count():
    assert counts(make(en=3.0, zh=1.0)) == counts(make(en=0.75, zh=0.25)) == [(120, 40)]


def test_the_order_of_names_changes_nothing():
    of = settings(en=3.0)
    turned = dataclasses.replace(of, weights=dict(reversed(of.weights.items())))
    sizes = dict(num_rows=ROWS, num_tokens=TOKENS, num_steps=10, batch_size=16)
    one, other = (source_weights.make_mixture(s, **sizes) for s in (of, turned))
    assert one.names == other.names == ("en", "zh")
    assert counts(one) == counts(other)


@pytest.mark.parametrize(
    ("temperature", "ratio"), [(0.0, 1.0), (1.0, 100.0), (2.0, 10.0), (1 / 0.3, 100**0.3)]
)
def test_a_temperature_is_a_root_of_the_sizes(temperature, ratio):
    found = source_weights.tempered({"en": 1.0, "zh": 2.0}, temperature, TOKENS)
    assert found["en"] / found["zh"] == pytest.approx(ratio / 2)


def test_a_tiny_temperature_overflows_nothing():
    assert source_weights.tempered({"en": 1.0, "zh": 1.0}, 1e-9, TOKENS) == {"en": 1.0, "zh": 0.0}


def test_stages_are_shares_of_the_steps():
    stages = ((0.0, dict(en=0.9, zh=0.1)), (0.9, dict(en=0.5, zh=0.5)))
    assert counts(make(num_steps=100, stages=stages)) == [(1296, 144), (80, 80)]
    # Without one from 0 on, the weights of the sources count until the first begins.
    assert counts(make(num_steps=100, en=3.0, stages=stages[1:])) == [(1080, 360), (80, 80)]


def test_what_is_never_drawn_is_named():
    assert source_weights.never_drawn(make(zh=1e-9)) == ["zh"]
    assert source_weights.never_drawn(make(zh=0.0)) == ["zh"]
    assert source_weights.never_drawn(make()) == []


def test_a_source_is_seen_as_often_as_it_may_be():
    assert counts(make(zh=1.0, max_epochs=8.0)) == [(80, 80)]
    with pytest.raises(UserError) as error:
        make(zh=1.0, max_epochs=7.0)
    assert str(error.value) == (
        "data.sources.zh.max_epochs=7.0: the weights draw 80 of its 10 rows, 8 epochs; lower its "
        "weight, or train.num_steps to 8, or raise max_epochs"
    )
    make(zh=1.0, max_epochs=7.0, num_steps=8)
    with pytest.raises(UserError, match=r"lower its weight, or raise max_epochs$"):
        make(zh=1.0, max_epochs=0.01)


EQUAL = dict(en=0.5, zh=0.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(zh=-1.0), "data.sources.zh.weight=-1.0 must be a number of at least 0"),
        (dict(zh=math.nan), "data.sources.zh.weight=nan must be"),
        (dict(en=math.inf), "data.sources.en.weight=inf must be"),
        (dict(en="1"), "data.sources.en.weight='1' must be a number"),
        (dict(en=0.0, zh=0.0), "the weight of all data.sources is 0"),
        (dict(max_epochs=-2.0), "data.sources.zh.max_epochs=-2.0 must be"),
        (dict(temperature=-1.0), "data.mixture.temperature=-1.0 must be"),
        (dict(temperature=math.nan), "data.mixture.temperature=nan must be"),
        (dict(stages=((0.5, dict(en=1, zh=1, fr=1)),)), "weighs 'fr', which is none of"),
        (dict(stages=((0.5, dict(en=1)),)), "the stage from 0.5 on gives zh no weight"),
        (dict(stages=((0.5, dict(en=0, zh=0)),)), "has no weight that is not 0"),
        (dict(stages=((0.5, dict(en=1, zh=-1)),)), "the stage from 0.5 on: zh=-1 must be"),
        (dict(stages=((0.5, dict(en=1, zh=math.nan)),)), "zh=nan must be"),
        (dict(stages=((0.5, EQUAL), (0.2, EQUAL))), "start at 0.5, 0.2; each must start later"),
        (dict(stages=((0.5, EQUAL), (0.5, EQUAL))), "start at 0.5, 0.5; each must start later"),
        (dict(stages=((1.0, EQUAL),)), "start at 1.0; each must"),
        (dict(stages=((-0.5, EQUAL),)), "is no pair of a share of the run"),
        (dict(stages=((math.nan, EQUAL),)), "is no pair of a share of the run"),
        (dict(stages=(0.5, EQUAL)), "0.5 is no pair of a share of the run"),
        (dict(stages=("a",)), "'a' is no pair of a share of the run"),
        (dict(stages=((0.99, EQUAL),)), "the stage from 0.99 on has none of the run's 10"),
        (dict(stages=((0.01, EQUAL),)), "the stage from 0.0 on has none of the run's 10 steps"),
        (dict(en=2.0, stages=((0, EQUAL),)), "data.sources.en.weight means nothing where"),
        (dict(temperature=2.0, stages=((0, EQUAL),)), "data.mixture.temperature means nothing"),
    ],
)
def test_a_mistake_is_one_line(changes, words):
    with pytest.raises(UserError) as error:
        make(**changes)
    assert words in str(error.value) and "\n" not in str(error.value)
