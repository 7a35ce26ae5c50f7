"""Text -> where it names how to reach, identify or charge a person; the same text without it.

E-mail and IP addresses, phones, Chinese identity numbers, cards, IBANs and keys to services. What
has a checksum counts with a right one only. English and Chinese alike: a Chinese character before
or after an item is a boundary, which `\\b` does not see, and full-width letters and digits are read
as the narrow ones.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from lm.curation.check_digits import IBAN_LENGTH, is_chinese_id, is_iban, is_luhn

KINDS = (
    "key",
    "email",
    "iban",
    "id",
    "card",
    "ip",
    "phone",
)  # Where two overlap, the first counts.

_WIDE = re.compile("[\uff10-\uff19\uff20-\uff3a\uff41-\uff5a]")
_NARROWED = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
# Each pattern is tried only where the text has what all its matches have: most texts have nothing.
_SOME_DIGITS = re.compile(r"[0-9](?:[^0-9\n]{0,3}[0-9]){7}")

# Users of hosts of versions, not people; and what stands before a host in an address of the web.
_MACHINES = {"git", "hg", "svn", "cvs", "ssh"}
_IN_ADDRESS = re.compile(r"//(?:[^\s/@]*:)?\Z")
# Lengths are bounded, by those of RFC 5321, so that no text takes a time out of proportion.
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9_@])([A-Za-z0-9_][A-Za-z0-9_.%+-]{0,63})@"
    r"(?![0-9]+\.[0-9]|[0-9]x\.)"  # A version of a package, an image of twice the size.
    r"(?:[A-Za-z0-9][A-Za-z0-9-]{0,62}\.){1,8}[A-Za-z]{2,24}+(?![A-Za-z0-9_@]|-[A-Za-z0-9])"
)
_PATH = re.compile(r":[\w~.-]*/")

_SOME_IPV4 = re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]")
_IPV4 = re.compile(  # Not v1.2.3.4, name-1.2.3.4, Name/1.2.3.4, name==1.2.3.4, name@1.2.3.4.
    r"(?<![A-Za-z0-9_.@^~+])(?<![A-Za-z][/-])(?<![=<>~!]=)"
    r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![A-Za-z0-9_]|\.[a-z0-9])"
)
_NUMBERED_BEFORE = re.compile(
    r"(?:(?<![A-Za-z])(?:versions?|ver\.?|releases?|revision|rev\.?|build|firmware|upgraded? to|"
    r"section|sec\.?|chapter|clause|table|figure|fig\.?|oid)|§|版本号?|版|升级[到至]|更新[到至]|固件|"
    r"第|[章节表图])[^\S\n]*(?:[:=：]|is|was|为|是)?[^\S\n]*\Z",
    re.IGNORECASE,
)
_NUMBERED_AFTER = re.compile(r"[ ]?[版节章条款]|[ ]\(?(?:19|20)[0-9]{2}-")
# Four single digits are a section, as 3.2.1.1, unless they stand as an address does, behind its
# name or a mask, or before a port or the length of a prefix; or are these resolvers.
_RESOLVERS = {"8.8.8.8", "8.8.4.4", "9.9.9.9"}
_ADDRESS_BEFORE = re.compile(
    r"(?:(?<![A-Za-z])(?:ip(?:v4)?|address(?:es)?|dns(?: servers?)?|name ?servers?|resolvers?|"
    r"gateways?|ping|traceroute|nslookup)|地址|网关|DNS服务器|//|"
    r"<IP>(?:[,，、;；/]|[ ](?:and|or)|[和或]))"
    r"[^\S\n]*(?:[:=：]|is|was|to|[设改]?[为成]|是)?[^\S\n]*\Z",
    re.IGNORECASE,
)
_ADDRESS_AFTER = re.compile(r":[0-9]{2,5}(?![0-9:])|/(?:[89]|[12][0-9]|3[0-2])(?![0-9])")
# Addresses that anyone can reach begin with 2 or 3 (RFC 4291, section 2.4).
_SOME_IPV6 = re.compile("[23][0-9A-Fa-f]{3}:")
_IPV6 = re.compile(r"(?<![A-Za-z0-9_:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![A-Za-z0-9_:])")

_BEFORE, _AFTER = r"(?<![A-Za-z0-9_+])(?<![0-9][.,-])", r"(?![A-Za-z0-9_]|[.,-][0-9])"
_AREA = "0(?:10|2[0-9]|[3-9][0-9]{2})"
_PHONE = re.compile(
    rf"""{_BEFORE} (?:
    # Chinese mobile numbers.
      (?:(?:\+|00)86[ -]?|\(\+?86\)[ ]?)?
      1(?:3[0-9]|4[5-9]|5[0-35-9]|6[2567]|7[0-35-8]|8[0-9]|9[0-35-9])
      (?:[0-9]{{8}}|[ ][0-9]{{4}}[ ][0-9]{{4}}|-[0-9]{{4}}-[0-9]{{4}})
    # Chinese fixed lines.
    | (?:[(（]{_AREA}[)）][ -]?|{_AREA}(?:[-－]|[ ]-?[ ]?))
      [2-8][0-9]{{2,3}}[ -]?[0-9]{{4}}(?:-[0-9]{{1,5}})?
    # Of any country (ITU-T E.164), where no number of North America begins with 0 or 1.
    | \+(?!1[ -]?\(?[01])[1-9][0-9]{{0,2}}(?:[ -]?\([0-9]{{1,4}}\))?(?:[ -]?[0-9]){{4,14}}
    | \+[1-9][0-9]{{0,2}}(?:\.[0-9]{{2,4}}){{2,4}}
    ) {_AFTER}""",
    re.VERBOSE,
)

# Mobile numbers have as many digits as the bytes of a disk or a memory, which are whole MiB.
_BYTES_AFTER = re.compile(r"[ ]?(?:[kKMGT]?i?B(?!\w)|[Bb]ytes?|octets|字节|位元組)")
_MIB = 2**20

_ID = re.compile(
    r"(?<![A-Za-z0-9_.])[1-9][0-9]{5}(?:18|19|20)[0-9]{9}[0-9Xx](?![A-Za-z0-9_]|\.[0-9])"
)
_CARD = re.compile(
    r"""(?<![A-Za-z0-9_.])(?<![0-9]-)(?:
      (?:4[0-9]{3}|5[1-5][0-9]{2}|2[2-7][0-9]{2}|35[2-8][0-9]|6011|64[4-9][0-9]|65[0-9]{2}|62[0-9]{2})
      ([ -]?)[0-9]{4}\1[0-9]{4}\1[0-9]{4}                       # Visa, Mastercard, JCB, Discover
    | 3[47][0-9]{2}([ -]?)[0-9]{6}\2[0-9]{5}                    # American Express
    | 3(?:0[0-5]|[68][0-9])[0-9]([ -]?)[0-9]{6}\3[0-9]{4}       # Diners Club
    | 62[0-9]{2}([ ]?)[0-9]{4}\4[0-9]{4}\4[0-9]{4}\4[0-9]{1,3}  # UnionPay
    )(?![A-Za-z0-9_]|[.-][0-9])""",
    re.VERBOSE,
)
_IBAN = re.compile(r"(?<![A-Za-z0-9_])[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]){11,28}")
_KEYS = {  # How keys begin -> what follows.
    "AKIA": "[A-Z0-9]{16}",  # Amazon
    "ASIA": "[A-Z0-9]{16}",
    "AIza": "[A-Za-z0-9_-]{35}",  # Google
    "LTAI": "[A-Za-z0-9]{12,26}",  # Alibaba
    "AKID": "[A-Za-z0-9]{28,36}",  # Tencent
    "ghp_": "[A-Za-z0-9]{36}",  # GitHub
    "gho_": "[A-Za-z0-9]{36}",
    "ghu_": "[A-Za-z0-9]{36}",
    "ghs_": "[A-Za-z0-9]{36}",
    "ghr_": "[A-Za-z0-9]{36,76}",
    "github_pat_": "[A-Za-z0-9_]{82}",
    "glpat-": "[A-Za-z0-9_-]{20,64}",  # GitLab
    "hf_": "[A-Za-z]{34}",  # Hugging Face
    "sk-": "(?:(?:proj|svcacct|ant|or)-[A-Za-z0-9_-]{20,200}|[A-Za-z0-9]{32,64})",  # OpenAI, ...
    "sk_live_": "[A-Za-z0-9]{24,99}",  # Stripe
    "rk_live_": "[A-Za-z0-9]{24,99}",
    "xoxb-": "[A-Za-z0-9-]{20,80}",  # Slack
    "xoxp-": "[A-Za-z0-9-]{20,80}",
    "npm_": "[A-Za-z0-9]{36}",
    "pypi-": "AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,250}",
    "SG.": r"[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",  # SendGrid
    "eyJ": r"[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{20,700}",  # JWT
    "-----BEGIN ": r"[A-Z0-9 ]{0,20}PRIVATE KEY(?: BLOCK)?-----[\s\S]{1,9999}?-----END [A-Z ]+-{5}",
}
_KEY_PATTERNS = {
    prefix: re.compile(f"(?<![A-Za-z0-9_]){re.escape(prefix)}{rest}(?![A-Za-z0-9_])")
    for prefix, rest in _KEYS.items()
}


class Private(NamedTuple):
    """Characters from `start` to `end`, exclusive, and which of KINDS they are."""

    start: int
    end: int
    kind: str


def find(text: str, kinds: Collection[str] = KINDS) -> list[Private]:
    """Text -> the places of private data in order, none over another.

    "电话13812345678, see 1.2.3" -> [Private(2, 13, "phone")]
    """
    narrowed = text.translate(_NARROWED) if _WIDE.search(text) else text
    found = []
    for kind in KINDS:
        if kind not in kinds:
            continue
        # Numbers of full-width tables run together as addresses, which nobody writes so.
        for start, end in _FINDERS[kind](text if kind == "ip" else narrowed):
            if not any(start < other.end and other.start < end for other in found):
                found.append(Private(start, end, kind))
    return sorted(found)


def mask(text: str, kinds: Collection[str] = KINDS) -> tuple[str, dict[str, int]]:
    """Text -> the text with <EMAIL>, <PHONE>, ... in place of each item, and how many of each kind.

    The same item becomes the same mask wherever it stands. Masking again changes nothing: what one
    mask leaves bare beside it is looked at again, too.

    "mail bob@x.org" -> ("mail <EMAIL>", {"email": 1})
    """
    counts = Counter()
    while found := find(text, kinds):
        counts.update(item.kind for item in found)
        parts, end = [], 0
        for item in found:
            parts += [text[end : item.start], f"<{item.kind.upper()}>"]
            end = item.end
        text = "".join(parts) + text[end:]
    return text, dict(counts)


def _keys(text):
    for prefix, pattern in _KEY_PATTERNS.items():
        if prefix in text:
            yield from (found.span() for found in pattern.finditer(text))


def _emails(text):
    for found in _EMAIL.finditer(text) if "@" in text else ():
        is_host = (
            found[1] in _MACHINES
            or _PATH.match(text, found.end())
            or _IN_ADDRESS.search(text[max(0, found.start() - 40) : found.start()])
        )
        if not is_host:
            yield found.span()


def _ips(text):
    for found in _IPV4.finditer(text) if _SOME_IPV4.search(text) else ():
        before = text[max(0, found.start() - 20) : found.start()]
        is_version = _NUMBERED_BEFORE.search(before) or _NUMBERED_AFTER.match(text, found.end())
        is_section = len(found[0]) == len("1.2.3.4") and not (
            found[0] in _RESOLVERS
            or _ADDRESS_BEFORE.search(before)
            or _ADDRESS_AFTER.match(text, found.end())
        )
        if not is_version and not is_section and _is_global(found[0]):
            yield found.span()
    for found in _IPV6.finditer(text) if _SOME_IPV6.search(text) else ():
        if _is_global(found[0].rstrip(":")):
            yield found.start(), found.start() + len(found[0].rstrip(":"))


def _is_global(address):
    try:
        parsed = ipaddress.ip_address(address)
        return parsed.is_global and not parsed.is_multicast
    except ValueError:
        return False


def _phones(text):
    for found in _PHONE.finditer(text) if _SOME_DIGITS.search(text) else ():
        num_digits = sum(map(str.isdigit, found[0]))
        is_size = found[0].isdigit() and (
            int(found[0]) % _MIB == 0 or _BYTES_AFTER.match(text, found.end())
        )
        # Digits alone behind a plus may be a sum or a line of a patch; with their country's code,
        # numbers have ten of them at least.
        is_short = re.fullmatch(r"\+[0-9]{,9}", found[0])
        if 8 <= num_digits <= 15 and not is_short and not is_size:
            yield found.span()


def _ids(text):
    for found in _ID.finditer(text) if _SOME_DIGITS.search(text) else ():
        if is_chinese_id(found[0]):
            yield found.span()


def _cards(text):
    for found in _CARD.finditer(text) if _SOME_DIGITS.search(text) else ():
        if is_luhn(found[0].replace(" ", "").replace("-", "")):
            yield found.span()


def _ibans(text):
    for found in _IBAN.finditer(text) if _SOME_DIGITS.search(text) else ():
        # Capitals may follow the last group.
        places = [place for place, character in enumerate(found[0]) if character.isalnum()]
        places = places[: IBAN_LENGTH.get(found[0][:2], 0)]
        end = found.start() + places[-1] + 1 if places else 0
        is_whole = not re.match("[A-Za-z0-9_]", text[end : end + 1])
        if is_whole and is_iban("".join(found[0][place] for place in places)):
            yield found.start(), end


_FINDERS = {
    "key": _keys,
    "email": _emails,
    "iban": _ibans,
    "id": _ids,
    "card": _cards,
    "ip": _ips,
    "phone": _phones,
}
