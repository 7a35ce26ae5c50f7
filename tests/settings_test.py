import functools

import pytest

from lm.errors import UserError
from lm.settings import call, choose, lookup


def takes(inputs, /, *, rate, steps=3, **more):
    return inputs, rate, steps, more


def takes_these(*, size, given, rate=0.1):
    return size, given, rate


def test_settings_and_what_is_given_reach_the_function():
    assert call(takes_these, "block", {"size": 1}, given=2) == (1, 2, 0.1)
    assert call(functools.partial(takes, 0), "block", {"rate": 1, "x": 2}) == (0, 1, 3, {"x": 2})


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        (takes_these, {"size": 1, "sise": 1}, r"^block\.sise is no setting of the block block$"),
        (takes_these, {"size": 1, "given": 1}, r"^block\.given is no setting"),
        (takes_these, {"rate": 1}, r"^block\.size is missing, and needed by the block block$"),
        (functools.partial(takes, 0), {"steps": 1, "x": 2}, r"^block\.rate is missing"),
    ],
)
def test_an_unknown_and_a_missing_setting_are_named(function, settings, message):
    given = {"given": 2} if function is takes_these else {}

    with pytest.raises(UserError, match=message):
        call(function, "block", settings, **given)


def test_a_name_that_there_is_not_is_shown_beside_those_that_there_are():
    assert choose("key", "b", ("b", "a")) == "b" and lookup("key", "b", {"b": 1}) == 1
    with pytest.raises(UserError, match=r"^key='c' is unknown; choose b, a$"):
        lookup("key", "c", {"b": 1, "a": 2})
