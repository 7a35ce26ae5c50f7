import itertools
import random
import string

import pytest
import stdnum.cn.ric
import stdnum.iso7064.mod_97_10
import stdnum.luhn
from stdnum import iban as stdnum_iban

from lm.curation.check_digits import (
    IBAN_LENGTH,
    chinese_id_check,
    is_chinese_id,
    is_iban,
    is_luhn,
)
from lm.curation.private_data import KINDS, Private, find, mask

FRAMES = {  # What stands around an item.
    "en": [
        "Call {} today.",
        "It is {}, she said",
        "({})",
        "contact: {}; or write",
        "{}",
        "see {}\nor",
    ],
    "zh": [
        "请联系{}谢谢",
        "他的是{}，别忘了。",
        "（{}）",
        "联系方式：{}；或者来信",
        "{}",
        "见{}\n另外",
    ],
}


def digits(generator, count):
    return "".join(generator.choice(string.digits) for _ in range(count))


def letters(generator, count, alphabet=string.ascii_letters + string.digits):
    return "".join(generator.choice(alphabet) for _ in range(count))


def email(generator):
    name = letters(generator, generator.randint(2, 9), string.ascii_lowercase)
    name += generator.choice(["", ".li", "_88", "+news", "-x", digits(generator, 4)])
    hosts = [
        "example.com",
        "163.com",
        "qq.com",
        "mail.pku.edu.cn",
        "a-b.co.uk",
        "21cn.com",
        "x.museum",
    ]
    return f"{name}@{generator.choice(hosts)}"


def ipv4(generator):
    return generator.choice(["8.8.{}.{}", "114.114.{}.{}", "202.96.{}.{}"]).format(
        generator.randrange(256), generator.randrange(256)
    )


def ipv6(generator):
    first = generator.choice(["2001:4860:4860", "240e:5a:4c", "2a00:1450:4001"])
    return f"{first}::{generator.randrange(1, 9999):x}"


def mobile(generator):
    start, middle, end = (
        "1" + generator.choice("358") + digits(generator, 1).replace("4", "5"),
        digits(generator, 4),
        digits(generator, 4),
    )
    return generator.choice(["{}{}{}", "+86 {}{}{}", "{} {} {}", "{}-{}-{}", "0086{}{}{}"]).format(
        start.replace("154", "158"), middle, end
    )


def landline(generator):
    area = generator.choice(["010", "021", "0571", "0755"])
    number = generator.choice("2568") + digits(generator, 7)
    form = generator.choice(["{}-{}{}", "({}){}{}", "（{}）{} {}", "{}-{}{}-801", "{} {}{}"])
    return form.format(area, number[:4], number[4:])


def international(generator):
    forms = [
        f"+1 ({generator.randint(201, 989)}) {digits(generator, 3)}-{digits(generator, 4)}",
        f"+1-{generator.randint(201, 989)}-{digits(generator, 3)}-{digits(generator, 4)}",
        f"+44 20 {digits(generator, 4)} {digits(generator, 4)}",
        f"+49{digits(generator, 10)}",
        f"+33 6 {' '.join(digits(generator, 2) for _ in range(4))}",
        f"+33.6.{'.'.join(digits(generator, 2) for _ in range(3))}".replace(".6.", "."),
        f"+86 10 6275 {digits(generator, 4)}",
    ]
    return generator.choice(forms)


def chinese_id(generator, places=("110101", "310104", "440305", "510107")):
    number = generator.choice(places)
    day = (
        f"{generator.randint(1940, 2012)}{generator.randint(1, 12):02}{generator.randint(1, 28):02}"
    )
    number += day + digits(generator, 3)
    return number + chinese_id_check(number)


def with_luhn(start):
    return next(start + check for check in string.digits if stdnum.luhn.is_valid(start + check))


def card(generator):
    number = with_luhn(generator.choice(["4", "51", "2300", "6222", "3528", "6011"]))[:-1]
    number = with_luhn(number + digits(generator, 15 - len(number)))
    cut = [number[place : place + 4] for place in range(0, 16, 4)]
    return generator.choice(
        [number, " ".join(cut), "-".join(cut), with_luhn("37" + digits(generator, 12))]
    )


def iban(generator, country=None):
    country = country or generator.choice(["DE", "FR", "GB", "NL", "NO", "ES"])
    body = digits(generator, IBAN_LENGTH[country] - 4)
    if country in ("GB", "NL"):
        body = "ABNA" + body[4:]
    number = country + stdnum.iso7064.mod_97_10.calc_check_digits(body + country) + body
    return generator.choice([number, " ".join(number[i : i + 4] for i in range(0, len(number), 4))])


def key(generator):
    """Keys that were never given out; made here, so that no file holds what looks like one."""
    parts = [
        ("AKIA", string.ascii_uppercase + string.digits, 16),
        ("ghp_", string.ascii_letters + string.digits, 36),
        ("hf_", string.ascii_letters, 34),
        ("sk-", string.ascii_letters + string.digits, 48),
        ("AIza", string.ascii_letters + string.digits, 35),
        ("LTAI", string.ascii_letters + string.digits, 20),
    ]
    prefix, alphabet, count = generator.choice(parts)
    return prefix + letters(generator, count, alphabet)


PLANTED = [
    (email, "email"),
    (email, "email"),
    (ipv4, "ip"),
    (ipv6, "ip"),
    (mobile, "phone"),
    (landline, "phone"),
    (international, "phone"),
    (chinese_id, "id"),
    (card, "card"),
    (iban, "iban"),
    (key, "key"),
]


def other(character):
    return str((int(character) + 1) % 10)


def broken(number):
    """The number with another last digit, so that its check fails."""
    place = max(i for i, character in enumerate(number) if character.isdigit())
    return number[:place] + other(number[place]) + number[place + 1 :]


def lookalike(generator, language):
    number = generator.randint(1, 250)
    version = (
        f"{number}.{generator.randrange(20)}.{generator.randrange(200)}.{generator.randrange(200)}"
    )
    anywhere = [
        f"v{version}",
        f"pip install name=={version}",
        f"Chrome/{version}",
        f"libname-{version}.tar.gz",
        f"192.168.{number}.{number}",
        f"10.0.0.{number}",
        "224.0.0.9",
        "9.0.0.8.in-addr.arpa",
        f"{version} (2024-05-06)",
        "127.0.0.1",
        "2001:db8::1",
        f"{version}.{number}",
        f"foo@{number}.2.3",
        "git@github.com:name/project.git",
        "git@example.com:project.git",
        "ssh://git@example.com/name",
        "https://name:word@example.com/path",
        "logo@2x.png",
        "@name/project",
        "Object@1a2b3c",
        "deploy@example.com:/srv/www/",
        f"2024-{generator.randint(10, 12)}-{generator.randint(10, 28)} 12:34:56",
        f"20240{generator.randint(101, 928)}",
        f"0.{digits(generator, 11)}",
        f"9.138{digits(generator, 8)}",
        f"page {number},138{digits(generator, 8)}",
        f"name_of{key(generator)}",
        f"3.1{digits(generator, 17)}",
        f"+{generator.randrange(1000)}.5",
        f"+{generator.randint(1, 9)}{digits(generator, 5)}",
        f"UTC+0{generator.randint(1, 9)}00",
        f"x+{generator.randint(2, 9)}{digits(generator, 10)}",
        f"1{digits(generator, 12)}",
        f"ISBN 978-7-{digits(generator, 4)}-{digits(generator, 4)}-{number % 10}",
        f"img_138{digits(generator, 8)}.jpg",
        f"0{digits(generator, 9)}7",
        broken(chinese_id(generator)),
        f"110101199002{generator.randint(30, 99)}{digits(generator, 4)}",
        broken(with_luhn("4" + digits(generator, 14))),
        broken(iban(generator, "DE")),
        f"{digits(generator, 8)}-{letters(generator, 4, '0123456789abcdef')}-4abc-8def-{'a1' * 6}",
        "sk-loading-spinner-of-the-page",
        "std::vector<int>::size",
        "aa:bb:cc:dd:ee:ff",
        f"1,{digits(generator, 3)},{digits(generator, 3)},{digits(generator, 3)}",
        f"138{digits(generator, 8)}.{digits(generator, 2)}",
        f"E138{digits(generator, 8)}",
        f"{generator.randrange(12_400, 18_900) << 20}",  # Bytes, of whole MiB.
        f"138{digits(generator, 8)} bytes",
        f"{generator.randrange(1, 10)}.{number % 10}.2.{generator.randrange(1, 10)}",
        f"１．{number % 90}０．{number % 90}０．{number % 10}",
    ]
    own = {
        "en": [
            f"version {version}",
            f"section {version}",
            f"Release: {version}",
            f"firmware {version}",
        ],
        "zh": [
            f"版本{version}",
            f"版本号：{version}",
            f"第{version}节",
            f"升级到{version}",
            f"{version}版",
            f"139{digits(generator, 8)}字节",
            f"山西１．{number % 90}０．{number % 90}０．５甘肃１．６０．８０．７",
        ],
    }
    return generator.choice(anywhere + own[language] * 2)


@pytest.mark.parametrize("language", FRAMES)
def test_what_is_planted_is_found_and_nothing_else(language):
    generator = random.Random(0)
    missed = []
    for n in range(200):
        make, kind = PLANTED[n % len(PLANTED)]
        item, frame = make(generator), FRAMES[language][n % 6]
        text = frame.format(item)
        start = text.index(item)

        right = [Private(start, start + len(item), kind)]
        if find(text) != right or mask(text) != (frame.format(f"<{kind.upper()}>"), {kind: 1}):
            missed.append(text)
    assert len(missed) <= 2, missed


@pytest.mark.parametrize("language", FRAMES)
def test_lookalikes_stay_as_they_are(language):
    generator = random.Random(0)
    for n in range(200):
        text = FRAMES[language][n % 6].format(lookalike(generator, language))
        assert mask(text) == (text, {})


def test_full_width_items_are_found():
    item = "１３８１２３４５６７８"
    assert find(f"电话：{item}。") == [Private(3, 14, "phone")]
    assert mask("ＺＨＡＮＧ＠ｅｘａｍｐｌｅ．ｃｏｍ，好") == ("<EMAIL>，好", {"email": 1})


@pytest.mark.parametrize(
    "text",
    [
        "MemTotal: 13958643712, free: 17179869184",
        "写入13912345678字节",
        "13912345678 kB",
        "长春１．５１．０１．３兰州１．５１．１０．９",
        "3.2.1.1 数据来源",
        "see 2.1.3.4",
    ],
)
def test_sizes_sections_and_tables_are_no_private_data(text):
    assert find(text) == []


def test_what_is_near_a_size_a_section_or_a_table_is_found():
    assert mask("13958643713")[1] == {"phone": 1}  # A byte more.
    assert mask("+86 13958643712")[1] == {"phone": 1}
    assert mask("电话13912345678，字节")[1] == {"phone": 1}
    assert mask("１．２ 12.5.33.41")[1] == {"ip": 1}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("8.8.8.8", "<IP>"),
        ("Set your DNS to 8.8.8.8 or 8.8.4.4.", "Set your DNS to <IP> or <IP>."),
        ("DNS: 8.8.8.8, 1.1.1.1 and 4.2.2.2", "DNS: <IP>, <IP> and <IP>"),
        ("its IP address is 5.1.2.3, she said", "its IP address is <IP>, she said"),
        ("nameserver 1.1.1.1\n", "nameserver <IP>\n"),
        ("把DNS服务器改为1.1.1.1和8.8.8.8", "把DNS服务器改为<IP>和<IP>"),
        ("IP地址：5.1.2.3。", "IP地址：<IP>。"),
        ("网关 5.1.2.3", "网关 <IP>"),
        ("http://1.1.1.1/dns-query", "http://<IP>/dns-query"),
        ("listen on 5.1.2.3:53 and 1.0.0.0/24", "listen on <IP>:53 and <IP>/24"),
    ],
)
def test_addresses_of_four_digits_are_told_by_what_stands_beside_them(text, masked):
    assert mask(text) == (masked, {"ip": masked.count("<IP>")})


@pytest.mark.parametrize(
    "text",
    [
        "1.1.1.1 Scope\n1.1.1.2 Terms",
        "as of 1.0.0.1, and 2.1.3.4:5",
        "see section 8.8.8.8",
        "version 8.8.8.8",
        "v8.8.8.8, name==8.8.8.8, name-8.8.8.8.tar.gz",
        "第8.8.8.8节",
        "版本8.8.8.8",
        "8.8.8.8.8",
        "a ship 5.1.2.3",
        "DNS\n1.1.1.1 Scope",
        "the IP address 1.1.1.1.1 of a table, the address 0.1.2.3",
        "3.2.1.1/2 of it",
        "地址见1.2.3.4",
    ],
)
def test_sections_and_versions_of_four_digits_stay(text):
    assert mask(text) == (text, {})


def test_where_two_kinds_overlap_one_is_masked():
    assert mask("13812345678@example.com") == ("<EMAIL>", {"email": 1})


def test_only_the_kinds_that_are_asked_for_are_masked():
    text = "bob@example.com 13812345678"
    assert mask(text, ("phone",)) == ("bob@example.com <PHONE>", {"phone": 1})
    assert mask(text) == ("<EMAIL> <PHONE>", {"email": 1, "phone": 1})


def test_private_keys_are_masked_from_their_first_line_to_their_last():
    dashes = "-" * 5
    block = f"{dashes}BEGIN RSA PRIVATE KEY{dashes}\nabc+/=\n{dashes}END RSA PRIVATE KEY{dashes}"
    assert mask(f"a\n{block}\nb") == ("a\n<KEY>\nb", {"key": 1})
    public = block.replace("RSA PRIVATE", "PUBLIC")
    assert mask(public) == (public, {})


def test_masking_twice_is_masking_once_and_order_changes_nothing():
    generator = random.Random(0)
    for _ in range(300):
        items = [
            generator.choice(PLANTED)[0](generator)
            if generator.random() < 0.5
            else lookalike(generator, "zh")
            for _ in range(4)
        ]
        text = generator.choice(["", " ", "的", ".", "-", "+"]).join(items)

        masked, _ = mask(text)

        assert mask(masked) == (masked, {}), text
        lines = [mask(item)[0] for item in items]
        assert mask("\n".join(items))[0] == "\n".join(lines)
        assert mask("\n".join(items[::-1]))[0] == "\n".join(lines[::-1])


def test_spans_are_in_order_and_apart():
    generator = random.Random(1)
    alphabet = [*"0123456789+-. ()@:/aA的", "138", "git", "example.com", "2001:", "DE44", "110101"]
    for _ in range(2000):
        text = "".join(generator.choice(alphabet) for _ in range(generator.randint(1, 60)))
        spans = find(text)
        assert all(a.end <= b.start for a, b in itertools.pairwise(spans))
        assert all(span.start < span.end and span.kind in KINDS for span in spans)


def test_long_texts_take_no_time_out_of_proportion():
    pieces = [
        "a",
        "1",
        "a.",
        "1.",
        "1 ",
        "+1",
        "1-",
        "a@",
        "@a.",
        "DE44",
        "2001:",
        ":",
        "(",
        "-----BEGIN ",
    ]
    for piece in pieces:  # Would take minutes if the square of the length counted.
        mask(piece * 100000 + "@" + "//")


def test_checks_are_those_of_stdnum():
    generator = random.Random(0)
    for n in range(10000):
        number = digits(generator, 17)
        if n % 3 == 0:
            assert chinese_id_check(number) == stdnum.cn.ric.calc_check_digit(number + "0")
        elif n % 3 == 1:
            assert is_luhn(number) == stdnum.luhn.is_valid(number)
        else:
            country = generator.choice([*IBAN_LENGTH])
            body = letters(generator, IBAN_LENGTH[country] - 4, string.digits + "ABCXYZ")
            check = stdnum.iso7064.mod_97_10.calc_check_digits(body + country)
            assert is_iban(country + check + body)
            wrong = country + check[0] + other(check[1]) + body
            assert not is_iban(wrong) and not stdnum.iso7064.mod_97_10.is_valid(body + wrong[:4])


def test_whole_numbers_are_judged_as_by_stdnum():
    generator = random.Random(1)
    for _ in range(200):
        number = chinese_id(generator, ["110101"])  # It knows since when a county is one.
        for candidate in (
            number,
            broken(number[:-1]) + number[-1],
            number[:10] + "13" + number[12:],
        ):
            assert is_chinese_id(candidate) == stdnum.cn.ric.is_valid(candidate)
        for country in ("DE", "NO", "ES"):
            number = iban(generator, country).replace(" ", "")
            # It knows the checks inside of a country's numbers, too, which random ones fail.
            assert is_iban(number) and stdnum_iban.is_valid(number, check_country=False)
            assert not is_iban(number[:-1]) and not is_iban(broken(number))
