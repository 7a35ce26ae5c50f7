"""In which encoding bytes are that declare none: the one in which they are the likeliest text.

Each reading is judged by how often languages use its characters, a unigram model of each language
that is written in the encoding, and by what writing does not do, such as a capital behind a small
letter. Frequencies are rough, and need no more: what decides is which characters are common.
"""

import codecs
import collections
import functools
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

# Of Chinese, the commonest first: of each, the first 20, the next 80 and the others have a share.
_HANS = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之"
    "年过发后作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样"
    "理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将"
    "两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信"
    "表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔"
    "更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统"
    "区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品"
    "住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运笑每花吧爱呢请"
    "车快清房早亲父母友晚找叫写站吃买卖店家班九八七六百千半块岁钱城村县省楼河湖江石木火土雨雪"
    "风云星春夏秋冬红黄绿蓝黑草树林鸟鱼牛羊狗猫茶饭菜米肉酒衣服鞋纸笔本页图片网站首页新闻"
    "版权留言联系登录注册会员搜索下载音乐电影游戏价格产品公司服务客户地址邮编技术支持"
)
_HANT = (
    "的一是不我了人在有這他個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之"
    "年過發後作裡用道行所然家種事成方多經麼去法學如都同現當沒動面起看定天分還進好小部其些主樣"
    "理心她本前開但因只從想實日軍者意無力它與長把機十民第公此已工使情明性知全三又關點正業外將"
    "兩高間由問很最重並物手應戰向頭文體政美相見被利什二等產或新己制身果加西斯月話合回特代內信"
    "表化老給世位次度門任常先海通教兒原東聲提立及比員解水名真論處走義各入幾口認條平系氣題活爾"
    "更別打女變四神總何電數安少報才結反受目太量再感建務做接必場件計管期市直德資命山金指克許統"
    "區保至隊形社便空決治展馬科司五基眼書非則聽白卻界達光放強即像難且權思王象完設式色路記南品"
    "住告類求據程北邊死張該交規萬取拉格望覺術領共確傳師觀清今切院讓識候帶導爭運笑每花吧愛呢請"
    "車快房早親父母友晚找叫寫站吃買賣店班九八七六百千半塊歲錢城村縣省樓河湖江石木火土雨雪"
    "風雲星春夏秋冬紅黃綠藍黑草樹林鳥魚牛羊狗貓茶飯菜米肉酒衣服鞋紙筆頁圖片網首聞灣臺台港您嗎"
    "版權留言聯絡登錄註冊員搜尋載音樂影遊戲價格產品公司服務客戶址郵編技術支援牠妳喔啦"
)
_KANJI = (
    "日人一大年会国本中上生見行分出事時者地方自場長前間合後手東京新今月市部内学高子小理実社的"
    "業来気言体立金同思定動女回対不通入連発三二十数作家力水心私何彼考所化感主当先全物話目意"
    "開語店道町駅車電田山川海木花春夏秋冬朝夜白黒赤青名前村県区議員選政経済世界最明書文店食"
    "四五六七八九百千万円度化性点法工相要用現教知関機代取表下外正安保重強成加平和活結果題問"
)
_HIRAGANA = (
    "のにをはたがとでしてれいなるからこすまもりっあくんう",
    "さけきそつよだどちせえおわめろばみほょやげねじずへゃゅびむふひごゆぐべぎぞざぼぶぬ",
)
_KATAKANA = (
    "ーンスルトリアイラクレドシジフマプタッロコ",
    "パテキムバカサメニデグチィュウエオケソツナネノハヒヘホミモヤユヨワセダビボブポペピガギゲゴ",
)
_HANGUL = (
    "이다는에의가고을한지를은하사기도로시어리자아인서",
    "나정대해그일과부수스전게으원제라주장들성보조동적구여상안있선면공국소유우무마오만경야세비신",
    "였습니까거모러내말중생요것되할었했며연없관각진미계방문물간분발화실행학민회개위용결당히르드"
    "트데음식때치영본재입산단체람살속남와터려같통반금날월년저두업차김호질교처감임심달집운노새길"
    "못왔온친새로써책점강밤밥봄버번열오울던되된될든등직최후홈페",
)
_SPACED = {  # Alphabets, commonest letters first: of each string the share of letters.
    "ru": (("оеаинтсрвл", 0.62), ("кмдпуяыьгз", 0.27), ("бчйхжшюцщэфъёіїєґ", 0.08)),
    "el": (("αοιετσνηυρ", 0.62), ("πκμλςωδγχθάέήίόύώ", 0.32), ("φβξζψϊϋΐΰ", 0.03)),
    "he": (("יוהלאתרבמש", 0.70), ("נדכקעפחגטםןצסזךףץ", 0.28)),
    "ar": (("اليمنوترب", 0.62), ("ةعدسفهكقحجأ", 0.28), ("طصخذضغثءئإؤىآظپچژگ،؟", 0.08)),
    "th": (
        ("านรอกเงมยลวดต่้ัี", 0.70),
        ("ทสะปบคหแจพชขใโไิุูื์็ำ", 0.24),
        ("ถผศซณฉญธฝฟภษฎฏฐฑฒฌฮฬฤๆฯฆ", 0.04),
    ),
}
_ACCENTED = {  # Of languages in Latin letters: those of a hundred letters that ASCII lacks.
    "fr": (("éèàê", 3.2), ("çôùâîû", 1.2), ("ëïœ", 0.1)),
    "de": (("äöüß", 3.0), ("é", 0.05)),
    "es": (("áéíóúñ", 3.0), ("ü¿¡", 0.3)),
    "pt": (("ãçáéí", 3.5), ("óõúâêôà", 1.5)),
    "it": (("àèìòù", 1.5), ("é", 0.1)),
    "nl": (("éë", 0.8), ("èïöü", 0.2)),
    "sv": (("åäö", 5.0), ("é", 0.1)),
    "da": (("æøå", 4.0), ("é", 0.1)),
    "is": (("áéíóúýþæöð", 9.0),),
    "et": (("äõöü", 4.0), ("šž", 0.1)),
    "lt": (("ąčęėįšųūž", 7.0),),
    "lv": (("āčēģīķļņšūž", 8.0),),
    "hr": (("čćžšđ", 4.0),),
    "pl": (("ąęłóśż", 6.0), ("ćńź", 1.0)),
    "cs": (("áíéěčřšžýů", 6.0), ("úťďňóľĺŕôä", 1.0)),
    "hu": (("áéöóő", 5.0), ("íúüű", 1.2)),
    "ro": (("ăâîșțşţ", 5.0),),
    "tr": (("ıüşçğö", 6.0), ("âîİ", 0.5)),
    "eo": (("ĉĝĥĵŝŭ", 4.0),),
}
_OF_LATIN = (("“”‘’–—…«»\u00a0©„", 0.03), ("®™°§·•€£×", 0.005))  # Marks, of characters.
_WIDE_MARKS = ("，。、", "：；？！（）《》“”‘’「」…—　·・〜～【】『』")

# Natural logarithms of the probability of a character: of ASCII, the same in all languages; of a
# control character; of one that a language does not list; of none at all.
_ASCII, _CONTROL, _ANY, _NONE = math.log(1 / 55), -14.0, -13.0, -20.0
_CAPITAL, _OTHER_ACCENT = -2.0, -10.0  # The former is added to that of the small letter.
_RARE, _RAREST = 6e-5, 3e-6  # Of characters in the common rows of a codec of two bytes, and others.
# Encodings that are met undeclared, with the languages that are written in them.
_LATIN_1, _LATIN_2 = "fr de es pt it nl sv da is et", "pl cs hr hu ro de"
_TRIED = {
    "gb18030": "hans hant",
    "big5hkscs": "hant",
    "euc_jp": "ja",
    "cp932": "ja",
    "cp949": "ko",
    "cp1251": "ru",
    "koi8-u": "ru",
    "cp1252": _LATIN_1,
    "cp1250": _LATIN_2,
    "iso8859-2": _LATIN_2,
    "cp1253": "el",
    "cp1254": f"tr {_LATIN_1}",
    "cp1255": "he",
    "cp1256": "ar",
    "cp1257": "lt lv et",
    "cp874": "th",
}
# How much oftener than others they are met, as logarithms; those that are only hinted at are rare.
_PRIOR = dict.fromkeys(_TRIED, 0.0) | {"cp1252": 1.0, "utf-8": 5.0}
_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_OF_TWO_BYTES = {"gb18030", "big5hkscs", "euc_jp", "cp932", "cp949", *_WIDE}
_LEAST_MARGIN = 3.0  # By which the likelihood of a reading exceeds others', as a logarithm.
_HINT, _IS_WIDE = 5.0, -8.0  # What a hint adds, and what UTF-16 and UTF-32 do, being rare.
_MOST_BYTES = 4096

_LETTERS = (  # Scripts that no word mixes.
    "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f",
    "\u0370-\u03ff",
    "\u0400-\u052f",
    "\u0590-\u05ff",
    "\u0600-\u06ff",
    "\u0e00-\u0e7f",
    "\u3040-\u30ff\u3400-\u9fff",
    "\uac00-\ud7a3",
)
_of_case = lambda test: "".join(c for c in map(chr, range(0x61, 0x530)) if test(c))
_UNWRITTEN = [  # What writing does not do, and what that costs.
    (re.compile("|".join(rf"[{each}](?=[^\W\d_])(?![{each}])" for each in _LETTERS)), -5.0),
    (re.compile(rf"[a-z{_of_case(str.islower)}](?=[A-Z{_of_case(str.isupper)}])"), -4.0),
    (re.compile("[\u00c0-\u024f](?=[\u00c0-\u024f])"), -1.0),
    (re.compile("(?<![ก-ฮ\u0e31-\u0e3a\u0e47-\u0e4e])[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]"), -8.0),
    (re.compile("[เ-ไ](?![ก-ฮ])"), -5.0),
    (re.compile(r"(?<=\d)[\u0370-\u07ff]|[\u0370-\u07ff](?=\d)"), -2.0),
    (re.compile(r"[ךםןףץς](?=[^\W\d_])"), -6.0),
]
# Bytes beyond ASCII, with one of ASCII on either side, which may belong to them.
_PIECE = re.compile(rb"[\0-\x7f]?[\x80-\xff](?:[\0-\x7f]{0,4}[\x80-\xff])*[\0-\x7f]{0,2}")


class Doubtful(Exception):
    """Bytes say about as likely things in two encodings."""


def guess(data: bytes, *hints: str) -> str:
    """Gives the encoding in which bytes are the likeliest text.

    Args:
      data: a page or a text, that has bytes beyond ASCII, or control characters.
      hints: encodings that it is said to be in, as Python names them; "" says nothing.

    Raises:
      Doubtful: two are about as likely, and at least one has two bytes a character.
    """
    # What stands twice says nothing new.
    pieces = b"\n".join(dict.fromkeys(_PIECE.findall(data)))[:_MOST_BYTES]
    names = dict.fromkeys([*hints, *_TRIED, "utf-8"])
    narrow = {
        name: _read(pieces, name, _PRIOR.get(name, -2.0) + _HINT * (name in hints))
        for name in names
        if name and not name.startswith(("utf-16", "utf-32"))
    }
    best = max(narrow, key=lambda name: narrow[name].score)
    head = data[:_MOST_BYTES]
    wide = {name: _read(head, name, _IS_WIDE + _HINT * (name in hints)) for name in _WIDE}
    wide[best] = _read(head, best, 0.0)
    found = max(wide, key=lambda name: wide[name].score)
    _check(found, wide)
    if found == best:
        _check(best, narrow)
    return found


class _Reading(NamedTuple):
    """What bytes say in an encoding, and the logarithm of how likely a text that is."""

    text: str
    score: float


def _check(best: str, readings: Mapping[str, _Reading]) -> None:
    text, score = readings[best]
    for other, reading in readings.items():
        is_as_likely = reading.score > score - _LEAST_MARGIN and reading.text != text
        if is_as_likely and _OF_TWO_BYTES & {best, other}:
            raise Doubtful(f"{best} or {other}")


def _read(data: bytes, encoding: str, prior: float) -> _Reading:
    is_whole = len(data) < _MOST_BYTES  # Or else the last character may be cut.
    text = codecs.getincrementaldecoder(encoding)("replace").decode(data, final=is_whole)
    score = prior + sum(cost * len(pattern.findall(text)) for pattern, cost in _UNWRITTEN)
    others: list[tuple[str, int]] = []
    for character, count in collections.Counter(text).items():
        if character >= "\x80":
            others.append((character, count))
        else:
            is_text = character.isprintable() or character in "\t\n\r\f"
            score += count * (_ASCII if is_text else _CONTROL)
    models = _models()
    languages = _TRIED.get(encoding, " ".join(models)).split()
    likelihoods = (
        sum(count * (models[language].get(c) or _unlisted(c)) for c, count in others)
        for language in languages
    )
    return _Reading(text, score + max(likelihoods))


@functools.cache
def _unlisted(character: str) -> float:
    return _ANY if character.isprintable() and character != "\ufffd" else _NONE


@functools.cache
def _models() -> dict[str, dict[str, float]]:
    """Gives for each language the logarithms of the probabilities of characters."""
    return {
        "hans": _chinese(_HANS, ("gb2312", 0xB0, 0xD7)),
        "hant": _chinese(_HANT, ("big5", 0xA4, 0xC6)),
        "ja": _with_codec(
            ("euc_jp", 0xB0, 0xCF),
            (_HIRAGANA[0], 0.40),
            (_HIRAGANA[1], 0.13),
            (_KATAKANA[0], 0.07),
            (_KATAKANA[1], 0.06),
            (_KANJI, 0.14),
            (_WIDE_MARKS[0], 0.07),
            (_WIDE_MARKS[1], 0.02),
        ),
        "ko": _with_codec(
            ("euc_kr", 0xB0, 0xC8),
            (_HANGUL[0], 0.38),
            (_HANGUL[1], 0.27),
            (_HANGUL[2], 0.22),
        ),
        **{name: _alphabet(bands) for name, bands in _SPACED.items()},
        **{name: _latin(bands) for name, bands in _ACCENTED.items()},
    }


def _chinese(common: str, codec: tuple[str, int, int]) -> dict[str, float]:
    bands = [(common[:20], 0.19), (common[20:100], 0.21), (common[100:], 0.33)]
    marks = [(_WIDE_MARKS[0], 0.09), (_WIDE_MARKS[1], 0.03)]
    return _with_codec(codec, *bands, *marks)


def _with_codec(codec: tuple[str, int, int], *bands: tuple[str, float]) -> dict[str, float]:
    """Adds what a codec of two bytes has; from one row to another it is common."""
    name, first, last = codec
    found = {}
    for lead in range(0xA1, 0xFF):
        for trail in [*range(0x40, 0x7F), *range(0xA1, 0xFF)]:
            character = bytes([lead, trail]).decode(name, errors="ignore")
            if len(character) == 1 and character > "\x7f":
                found[character] = math.log(_RARE if first <= lead <= last else _RAREST)
    return found | _bands(*bands)


def _bands(*bands: tuple[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for characters, share in bands[::-1]:
        found |= dict.fromkeys(characters, math.log(share / len(set(characters))))
    return found


def _alphabet(bands: tuple[tuple[str, float], ...]) -> dict[str, float]:
    found = _bands(*_OF_LATIN, *bands)
    capitals = {c.upper(): value + _CAPITAL for c, value in found.items() if len(c.upper()) == 1}
    return capitals | found


def _latin(bands: tuple[tuple[str, float], ...]) -> dict[str, float]:
    others = {chr(code): _OTHER_ACCENT for code in range(0xC0, 0x180)}
    return others | _alphabet(tuple((letters, share / 100) for letters, share in bands))
