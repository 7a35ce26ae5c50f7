"""Renders chat templates as `transformers` does: Jinja in an immutable sandbox, with bounds.

What a template is given follows `transformers` 5.24: blocks are trimmed, `break` and `continue`
work, `{% generation %}` says what an assistant wrote, and `tojson` escapes nothing that JSON does
not. A template is somebody else's program: its work is counted, and its errors are one line.
"""

import datetime
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes, runtime
from jinja2.visitor import NodeTransformer

from lm.chat.template_costs import FILTER_COSTS, METHOD_COSTS, operator_cost, size_of
from lm.errors import UserError
from lm.tokenizers.offsets import Range

_MAX_WORK = 2**24  # Characters made by a rendering, beside 64 for each that it is given.
_STEP = 64  # What a loop's step or a call costs, in characters.
_OF_JINJA = ("_loop_vars", "_block_vars")  # What it adds to calls inside of a loop or a block.
_MAX_SECONDS = 60.0  # For what is not counted: comparisons, and sorting.
_PRIVATE = range(0xF0000, 0xFFFFE)  # Characters that no standard gives a meaning.


class Rendered(NamedTuple):
    """What a template wrote, and where in it the text inside of `{% generation %}` stands.

    answers: None where the template has no such tag.
    """

    text: str
    answers: list[Range] | None


class Program:
    """A compiled template, of Jinja that errors call by its label.

    Raises:
      UserError: it is no Jinja.
    """

    def __init__(self, source: str, label: str):
        self.source, self.label = source, label
        self._environment = _Environment()
        with _OneLine(f"{label} is no Jinja"):
            # Set anew: nodes that a visitor adds have no environment of their own.
            tree = _Counted().visit(self._environment.parse(source))
            self._template = self._environment.from_string(tree.set_environment(self._environment))
        self.marks_answers = any(
            isinstance(node.call.node, nodes.ExtensionAttribute)
            for node in tree.find_all(nodes.CallBlock)
        )

    def render(self, name: str, variables: Mapping[str, Any], now: datetime.datetime) -> Rendered:
        """Renders the text for these variables.

        Args:
          name: what errors call the conversation.
          variables: plain JSON values, by name; what is left out is undefined in the template.
          now: what `strftime_now` formats.

        Raises:
          UserError: the template refuses them, fails, or does more than it may.
        """
        text = self._run(name, variables, now, None)
        if not self.marks_answers:
            return Rendered(text, None)
        marks = unused_characters(2, [text, self.source])
        # Once more with marks: the text alone does not say where a tag began.
        marked = self._run(name, variables, now, (marks[0], marks[1]))
        plain, spans = _without_marks(marked, *marks)
        if plain != text:
            raise UserError(
                f"{name}: {self.label} changes what its generation tag holds, so that answers "
                "cannot be found; take a template that writes it as it is"
            )
        return Rendered(text, spans)

    def _run(self, name, variables, now, marks) -> str:
        environment = self._environment
        given = len(self.source) + sum(map(_total, variables.values()))  # Long chats may do more.
        environment.start(_MAX_WORK + 64 * given, now, marks)
        with _OneLine(f"{name}: {self.label} fails"):
            text = "".join(self._template.generate(**variables))
            text.encode()  # A lone half of a surrogate pair, as JSON can spell, is no text.
            return text


class _OneLine:
    """Turns whatever a template raises into a UserError of one line, with the template's own."""

    def __init__(self, what: str):
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> None:
        # Jinja's own errors, and any of Python's: of arithmetic, depth, memory, types.
        if not isinstance(error, Exception):
            return
        line = getattr(error, "lineno", None)
        while traceback is not None:  # The innermost frame of the template counts.
            if traceback.tb_frame.f_code.co_filename in ("<template>", "<unknown>"):
                line = traceback.tb_lineno
            traceback = traceback.tb_next
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if not isinstance(error, jinja2.TemplateError | _TooMuch):
            reason = f"{type(error).__name__}: {reason}"
        at = "" if line is None else f" at line {line}"
        raise UserError(f"{self._what}{at}: {reason}") from None


class _TooMuch(Exception):
    """A template did more than it may."""


class _Generation(jinja2.ext.Extension):
    """Marks `{% generation %}...{% endgeneration %}`: what an assistant wrote."""

    tags: ClassVar = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        before, after = self.environment.marks or ("", "")
        return f"{before}{caller()}{after}"


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Sandboxes as `transformers` does, and counts all that can grow before it does."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self):
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, jinja2.ext.loopcontrols],
            optimized=False,  # Nothing is computed before it is counted.
            finalize=_written,
        )
        self.filters["tojson"] = _to_json
        for name, function in self.filters.items():
            self.filters[name] = self._counted(name, function)
        self.filters["counted"] = self._size_counted
        del self.globals["lipsum"]
        self.globals |= {
            "raise_exception": _raise,
            "strftime_now": lambda format: self.now.strftime(format),
            "dict": _Dict(),
            "namespace": _Namespace,
        }
        self.start(0, datetime.datetime.min, None)

    def start(self, max_work: int, now: datetime.datetime, marks: tuple[str, str] | None) -> None:
        """Sets the budget of a rendering; called before each."""
        self.left, self.until = max_work, time.monotonic() + _MAX_SECONDS
        self.max_work, self.now, self.marks = max_work, now, marks

    def spend(self, amount: int) -> None:
        """Counts an operation that makes so many characters, before it is done."""
        self.left -= _STEP + amount
        if self.left < 0:
            raise _TooMuch(f"it does more than {self.max_work:,} characters of work")
        if time.monotonic() > self.until:
            raise _TooMuch(f"it takes more than {_MAX_SECONDS:.0f} seconds")

    def call(self, context, obj, *args, **kwargs):
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", None)
        if isinstance(owner, str | bytes | int) and name in METHOD_COSTS:
            args = tuple(list(x) if _is_iterator(x) else x for x in args)
            named = {k: v for k, v in kwargs.items() if k not in _OF_JINJA}
            self.spend(METHOD_COSTS[name](owner, *args, **named))
        self.spend(0)  # A step, for calls that make nothing: else recursion would be free.
        result = super().call(context, obj, *args, **kwargs)
        self.spend(size_of(result))
        return result

    def call_binop(self, context, operator, left, right):
        self.spend(operator_cost(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value):
        wrapped = super().wrap_str_format(value)
        if wrapped is None:  # Not a method `format` of a text.
            return None
        cost, text = METHOD_COSTS[value.__name__], value.__self__

        def counted(*args, **kwargs):
            self.spend(cost(text, *args, **kwargs))
            return wrapped(*args, **kwargs)

        return counted

    @jinja2.pass_eval_context
    def concatenate(self, eval_context, *parts):
        """Does what `~` does."""
        self.spend(sum(map(size_of, parts)))
        join = runtime.markup_join if eval_context.autoescape else runtime.str_join
        return join(parts)

    def _counted(self, name: str, function: Callable) -> Callable:
        cost = FILTER_COSTS.get(name)
        # Context, environment or nothing comes before the value, as the filter asks for.
        passed = getattr(function, "jinja_pass_arg", None)
        at = int(passed is not None)

        def counted(*args, **kwargs):
            args = tuple(list(x) if _is_iterator(x) else x for x in args)  # To be counted first.
            self.spend(size_of(args[at]) if cost is None else cost(*args[at:], **kwargs))
            result = function(*args, **kwargs)
            self.spend(size_of(result))
            return result

        counted.jinja_pass_arg = passed
        return counted

    def _size_counted(self, text: str) -> str:
        self.spend(len(text))
        return text


class _Counted(NodeTransformer):
    """Has each loop's step, each macro and each `~` counted."""

    def visit_Concat(self, node):  # Jinja compiles `~` to a join, which nothing intercepts.
        self.generic_visit(node)
        function = nodes.EnvironmentAttribute("concatenate")
        return nodes.Call(function, node.nodes, [], None, None).set_lineno(node.lineno)

    def visit_AssignBlock(self, node):
        self.generic_visit(node)
        node.filter = nodes.Filter(node.filter, "counted", [], [], None, None, lineno=node.lineno)
        return node

    def _body(self, node):
        # Literal text of a body costs its length in each of its turns.
        literal = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        spend = nodes.EnvironmentAttribute("spend")
        call = nodes.Call(spend, [nodes.Const(literal)], [], None, None, lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(call, lineno=node.lineno))
        return node

    visit_For = visit_Macro = visit_CallBlock = _body


class _Dict:
    """Serves as `dict` of templates: makes one, and shows nothing of Python's own class."""

    def __call__(self, *args, **kwargs):
        return dict(*args, **kwargs)

    def fromkeys(self, *args):
        return dict.fromkeys(*args)


class _Namespace(jinja2.utils.Namespace):
    """Serves as `namespace` of templates, without private names."""

    def __init__(*args, **kwargs):
        self, *args = args  # As in Jinja, so that a template may give a value named self.
        values = dict(*args, **kwargs)
        for name in values:
            _check_public(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name, value):
        _check_public(name)
        super().__setitem__(name, value)


def _check_public(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.sandbox.SecurityError(f"a namespace takes no name such as {name!r}")


@jinja2.pass_context
def _written(context, value: Any) -> Any:
    """Counts what `{{ value }}` writes."""
    # Given the context, Jinja does not compute constants beforehand, uncounted.
    context.environment.spend(size_of(value))
    return value


def _to_json(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    """Refuses a conversation, as templates ask for."""
    raise jinja2.TemplateError(message)


def _is_iterator(value: Any) -> bool:
    return isinstance(value, Iterator) and not isinstance(value, runtime.LoopContext)


def _total(value: Any) -> int:
    """Counts the characters of a JSON value, and one for each of its parts."""
    if isinstance(value, Mapping):
        return 1 + sum(len(str(key)) + _total(child) for key, child in value.items())
    if isinstance(value, list | tuple):
        return 1 + sum(map(_total, value))
    return 1 + (len(value) if isinstance(value, str) else 0)


def unused_characters(num: int, texts: Iterable[str]) -> list[str]:
    """Returns so many private-use characters that stand in none of these texts."""
    used = set().union(*texts)
    unused = (chr(code) for code in _PRIVATE if chr(code) not in used)
    return [next(unused) for _ in range(num)]


def _without_marks(marked: str, before: str, after: str) -> tuple[str, list[Range]]:
    """Returns the text without marks, and what stood between them; inner marks count as outer."""
    parts: list[str] = []
    spans: list[Range] = []
    starts: list[int] = []
    length = 0
    for part in re.split(f"([{before}{after}])", marked):
        if part == before:
            starts.append(length)
        elif part == after:
            start = starts.pop()
            if not starts:
                spans.append((start, length))
        else:
            parts.append(part)
            length += len(part)
    return "".join(parts), spans
