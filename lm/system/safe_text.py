r"""Makes text of others fit to be shown: it moves no cursor, reorders no line, tells no password.

"a\x1b[2Jb\u202ec" -> "a\\x1b[2Jb\\u202ec"
"https://me:secret@host/a" -> "https://<redacted>@host/a"
"""

import re

# Characters of Unicode that order what stands around them; see its Standard Annex 9.
_ORDERING = "\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_UNSAFE = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f{_ORDERING}\ud800-\udfff]")
_MOST_CHARS = 1000  # Of a line at each end.
_USER_IN_URL = re.compile(r"(://)[^/\s'\"]*@")


def escaped(text: str) -> str:
    """Escapes control characters except line ends and tabs, ordering ones, and lone surrogates."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def redacted(text: str) -> str:
    """Takes names and passwords out of the URLs of a text."""
    return _USER_IN_URL.sub(r"\1<redacted>@", text)


def shown(text: str) -> str:
    """Escapes and redacts a text."""
    return escaped(redacted(text))


def one_line(text: str) -> str:
    """Escapes and redacts a text, as one line: for errors, which may quote a user's file."""
    line = " ".join(text.splitlines())
    # The middle of a very long line is left out, since its end says what helps.
    if len(line) > 2 * _MOST_CHARS:
        left_out = f" [{len(line) - 2 * _MOST_CHARS:,} characters] "
        line = f"{line[:_MOST_CHARS]}{left_out}{line[-_MOST_CHARS:]}"
    return shown(line)
