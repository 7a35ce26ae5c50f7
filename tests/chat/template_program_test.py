"""What a template is given and may do; each result is compared with `transformers`."""

import datetime

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from lm.chat import template_program
from lm.chat.template_costs import METHOD_COSTS
from lm.chat.template_program import Program
from lm.errors import UserError

NOW = datetime.datetime.now()
MESSAGES = [
    {"role": "user", "content": " 你好 <b>&</b> 'x' \"y\"\n"},
    {"role": "assistant", "content": "ok", "tool_calls": [{"name": "f", "arguments": {"b": 1}}]},
]
VARIABLES = {
    "messages": MESSAGES,
    "tools": None,
    "documents": None,
    "add_generation_prompt": True,
    "bos_token": "<s>",
}


def render(source, **variables):
    program = Program(source, "the template of a test")
    return program.render("chats.jsonl:7", VARIABLES | variables, NOW)


@pytest.mark.parametrize(
    "source",
    [
        "a\n  {% if true %}\n  b\n  {% endif %}\n\nc\n",
        "{% for m in messages %}\n{{ m.role }}\n{% endfor %}\n",
        "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i > 5 %}{% break %}{% endif %}"
        "{{ i }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{% endfor %}",
        "{{ messages | tojson }}{{ messages | tojson(indent=2) }}",
        "{{ [1, 2] | tojson(separators=(',', ':')) }}",
        "{{ {'b': '<你>', 'a': none} | tojson(sort_keys=true) }}",
        "{{ '你' | tojson(ensure_ascii=true) }}",
        "{{ tools }}|{{ tools is none }}|{{ documents is defined }}|{{ eos_token is defined }}",
        "{{ eos_token }}|",
        "{{ strftime_now('%Y-%m-%d') }}{{ strftime_now is defined }}",
        "{% set ns = namespace(n=0) %}"
        "{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "{% macro f(x, y=2) %}{{ x ~ y }}{{ caller() if caller else '' }}{% endmacro %}{{ f('a') }}"
        "{% call f('b') %}c{% endcall %}",
        "{% set x %}a{{ 1 }}b{% endset %}{{ x | upper }}{% filter upper %}c{% endfilter %}",
        "{{ messages[0].content | trim | replace('<b>', '') | indent(2) | length }}",
        "{{ messages[::-1] | map(attribute='role') | join(', ') }}",
        "{% for i in [1, 2] %}{{ ', '.join(['a', 'b'] | map('upper')) }}{% endfor %}",
        "{{ '%s and %05d' % ('a', 3) }}{{ '%*s' % (5, 'a') }}",
        "{{ '{:{}}'.format('hi', '>5') }}",
        "{{ '{:>5}{x}'.format('a', x=2) }}{{ 'a' * 3 }}{{ 7 % 4 }}{{ 2 ** 5 }}",
        "{{ messages | selectattr('tool_calls', 'defined') | list | length }}",
        "{{ 'a,b'.split(',')[-1] }}",
        "{{ dict(a=1) | items | list }}{{ none }}{{ true }}{{ 1.5 }}",
        "{{ ['a'] }}{{ nothing }}{{ [1] + [2] }}",
        "{% for a in [[1, [2]], 3] recursive %}{{ loop(a) if a is iterable else a }}{% endfor %}",
        "{{ messages[0].content.strip().split()[0][:1] }}",
        "{{ messages[1].nothing }}{{ 'x' in 'xyz' }}",
        "{%- generation -%} a {%- endgeneration -%} {{- bos_token -}} \n",
        "{{ 'a' | center(9) }}{{ [3, 1] | sort }}",
        "{{ 2.567 | round(1) }}{{ 'ab' | batch(1) | list }}",
        "{% autoescape true %}{{ '<' ~ '&' }}{% endautoescape %}{{ '<' | e }}{{ '<' ~ '&' }}",
    ],
)
def test_texts_are_those_of_transformers(source):
    given = {k: v for k, v in VARIABLES.items() if k != "messages"}
    [theirs], _ = render_jinja_template([MESSAGES], chat_template=source, **given)

    assert render(source).text == theirs


def test_what_the_generation_tag_holds_is_found_wherever_it_stands():
    source = (
        "{% macro said(x) %}[{% generation %}{{ x }}{% endgeneration %}]{% endmacro %}"
        "a{{ said('bc') }}{% set later %}{% generation %}{% generation %}d{% endgeneration %}e"
        "{% endgeneration %}{% endset %}-{{ later }}"
    )

    rendered = render(source)

    assert rendered.text == "a[bc]-de"
    assert [rendered.text[slice(*span)] for span in rendered.answers] == ["bc", "de"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("x\n\n{{ messages[5].content.x }}", "at line 3: .* has no element 5"),
        ("{{ raise_exception('no\nsystem turn') }}", ": no system turn$"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "not safely callable|unsafe"),
        ("{% set n = namespace(_a=1) %}", "'_a'"),
        ("{% include 'other' %}", "no loader"),
        ("{% import 'other' as x %}", "no loader"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 'a' + 1 }}", "TypeError"),
        ("{{ [] | first | upper | foo }}", "foo"),
        ("{% for x in range(10 ** 6) %}{% endfor %}", "OverflowError"),
        ("{% if true %}", "is no Jinja"),
        ("{% unknown %}", "is no Jinja at line 1.*unknown"),
    ],
)
def test_errors_are_one_line_with_the_templates_name(source, reason):
    with pytest.raises(UserError, match=reason) as caught:
        render(source)
    assert "the template of a test" in str(caught.value) and "\n" not in str(caught.value)


_ALL = "{% for a in range(3000) %}{% for b in range(3000) %}BODY{% endfor %}{% endfor %}"
_DOUBLE = (
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}BODY{% endfor %}{{ n.x | length }}"
)


@pytest.mark.parametrize(
    "source",
    [
        _ALL.replace("BODY", ""),
        "{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n }}{% endmacro %}{{ f(60) }}",
        "{% for a in range(9) recursive %}{{ loop(range(9)) if loop.depth < 20 }}{% endfor %}",
        _DOUBLE.replace("BODY", "{% set n.x = n.x ~ n.x %}"),
        _DOUBLE.replace("BODY", "{% set n.x = n.x + n.x %}"),
        _DOUBLE.replace("BODY", "{% set n.x = n.x * 9 %}"),
        _DOUBLE.replace("BODY", "{% set n.x = [n.x, n.x] | join %}"),
        _DOUBLE.replace("BODY", "{% set n.x = n.x | replace('a', n.x) %}"),
        _DOUBLE.replace("BODY", "{% set n.x = n.x.replace('b', n.x) %}"),
        _DOUBLE.replace("BODY", "{% set n.x = '%s%s' % (n.x, n.x) %}"),
        _DOUBLE.replace("BODY", "{% set n.x = '{0}{0}'.format(n.x) %}"),
        _DOUBLE.replace("BODY", "{% set n.x = n.x.join([n.x] * 3) %}"),
        _DOUBLE.replace("BODY", "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}"),
        _DOUBLE.replace("BODY", "{% set n.x = (n.x, n.x) | list | string %}"),
        _DOUBLE.replace("BODY", "{% set n.x = n.x.translate({97: n.x}) %}"),
        "{{ 'a'.center(N) }}{{ 'b' | center(N) }}",
        "{{ 'a'.ljust(N) }}{{ 'b'.zfill(N) }}{{ '\t'.expandtabs(N) }}",
        "{{ '%Nd' % 1 }}",
        "{{ '%*d' % (N, 1) }}",
        "{{ '{:N}'.format(1) }}{{ '{:{w}}'.format(1, w=N) }}",
        "{{ 'a\nb' | indent(N) }}",
        "{{ 2.5 | round(N) }}",
        "{{ [1, [2]] | tojson(indent=N) }}",
        "{{ 'a' | wordwrap(2, wrapstring='ab' * 9999999) }}{{ [1] | batch(N, 'x') | list }}",
        "{{ (5).to_bytes(N, 'big') }}",
        "{{ 10 ** (10 ** 9) }}",
        "{% set n = namespace(x=3) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{{ 'a' * N }}",
        "{{ [0] * N }}",
    ],
)
def test_work_is_bounded(source):
    with pytest.raises(UserError, match="characters of work") as caught:
        render(source.replace("N", "30000000"))
    assert "\n" not in str(caught.value)


def test_the_bound_grows_with_what_is_given():
    source = "{% for m in messages %}{{ m.content | trim | replace('a', 'b') }}{% endfor %}"
    long = [{"role": "user", "content": "a" * 100_000}] * 200

    assert len(render(source, messages=long).text) == 20_000_000


LONG = "ab, " * 50


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("center", (3000,)),
        ("expandtabs", (500,)),
        ("format", ()),
        ("join", (["x", LONG, "y"] * 9,)),
        ("ljust", (3000,)),
        ("replace", ("b", LONG)),
        ("replace", ("", LONG)),
        ("rjust", (3000,)),
        ("translate", ({97: LONG},)),
        ("zfill", (3000,)),
    ],
)
def test_what_a_method_would_make_is_known_beforehand(name, arguments):
    text = LONG + "\t{:700}"[: 7 * (name == "format") + 1]
    arguments = (LONG,) if name == "format" else arguments

    made = len(getattr(text, name)(*arguments))

    assert made > 300 and METHOD_COSTS[name](text, *arguments) >= made


@pytest.mark.parametrize(
    ("text", "arguments", "named"),
    [
        ("{:{}}", ("hi", ">500"), {}),
        ("{0:{1[0]}}", ("hi", [500]), {}),
        ("{:{w[0][a]}}", ("hi",), {"w": [{"a": 500}]}),
        ("{x:{w}}" * 9, (), {"x": 1, "w": 500}),
        ("{:.{}f}", (1.5, 500), {}),
        ("{:{}}{", ("hi", 500), {}),
    ],
)
def test_widths_of_a_format_that_stand_in_its_arguments_are_known_beforehand(
    text, arguments, named
):
    made = len(text.rstrip("{").format(*arguments, **named))

    assert made >= 500
    assert made <= METHOD_COSTS["format"](text, *arguments, **named) <= 5 * made


def test_numbers_that_are_no_widths_are_not_counted():
    assert METHOD_COSTS["format"]("{:{w}}", "call 5551234", w=5) < 100
    assert METHOD_COSTS["format_map"]("{x:{w[0]}}", {"x": 1, "w": [500]}) >= 500


def test_time_is_bounded(monkeypatch):
    monkeypatch.setattr(template_program, "_MAX_SECONDS", 0.0)
    with pytest.raises(UserError, match="more than 0 seconds"):
        render("{% for i in range(9) %}{% endfor %}")
