"""Whether a number is what it looks like, by the check digits that it carries."""

import datetime

# Mainland provinces, and since 2018 Taiwan, Hong Kong and Macao (GB/T 2260).
_PROVINCES = {
    *(11, 12, 13, 14, 15, 21, 22, 23, 31, 32, 33, 34, 35, 36, 37, 41, 42, 43, 44, 45, 46, 50, 51),
    *(52, 53, 54, 61, 62, 63, 64, 65, 71, 81, 82, 83),
}
# Characters -> the countries whose IBANs are as long, by the registry of ISO 13616.
_IBAN_LENGTHS = {
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU",
    31: "MT SC",
    32: "LC",
}
IBAN_LENGTH = {
    country: length for length, countries in _IBAN_LENGTHS.items() for country in countries.split()
}


def is_luhn(digits: str) -> bool:
    """Whether digits pass the check of ISO/IEC 7812-1: every second doubled, from the right."""
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(map(int, digits[-1::-2]))) % 10 == 0


def is_chinese_id(number: str) -> bool:
    """Whether 18 characters are a number of GB 11643: a province, a day, a check by ISO 7064."""
    try:
        datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    return int(number[:2]) in _PROVINCES and chinese_id_check(number[:17]) == number[17].upper()


def chinese_id_check(digits: str) -> str:
    """The check character of 17 digits, by MOD 11-2 of ISO 7064."""
    total = sum(int(digit) * 2 ** (17 - place) for place, digit in enumerate(digits))
    return "10X98765432"[total % 11]


def is_iban(text: str) -> bool:
    """Whether capitals and digits have their country's length and are 1 modulo 97 (ISO 13616)."""
    if len(text) != IBAN_LENGTH.get(text[:2]):
        return False
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1
