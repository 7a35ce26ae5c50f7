r"""Of how many short pages that declare no encoding is the text read right, and of how many wrong?

Command:   python -m benchmarks.quality.encodings
Hardware:  one CPU core, a minute.

A row is an encoding and a language, a column a number of characters, of which NUM_SAMPLES pieces
are drawn from the sentences below, each with a character beyond ASCII. A piece is a page, and a
text without markup. Cells are percentages, read right and read wrong; the others are lost by name.
"""

import argparse
import json
import random
import sys
import unicodedata
from collections.abc import Iterator, Sequence

from lm.curation import web_text

LENGTHS = (2, 4, 8, 16, 64)
NUM_SAMPLES = 200
PAGE = "<html><head><title>{0}</title></head><body><div class=main><p>{0}</p></div></body></html>"
TEXTS = {  # Written for this benchmark.
    "zh": """
昨天傍晚我在河边遇见一位老朋友，他刚从南方回来，说那里的天气已经很暖和了。
这家小店开了三十多年，老板每天早上五点起床，亲手做豆浆和油条。
学校门口的银杏树叶子都黄了，风一吹就落满整条街道。
科学家认为，这种鱼只生活在很深的海底，人们对它的了解还非常少。
妹妹问我为什么月亮会跟着我们走，我想了半天也不知道怎样回答。
新的图书馆明年三月开放，里面有十万本书，还有一个安静的花园。
请您在填写表格以前仔细阅读说明，如果有问题可以打电话给我们。
他们沿着山路走了六个小时，终于在天黑之前看到了村子里的灯光。
经济发展不能只看速度，更要看人民的生活是不是真正得到了改善。
比赛最后一分钟，他把球传给队友，全场观众都站了起来。
这本书讲的是一个木匠的故事，写得简单而且动人，很多人读完都哭了。
医院旁边新修了一个停车场，可是到了周末还是找不到位置。
""",
    "zh-Hant": """
昨天傍晚我在河邊遇見一位老朋友，他剛從南部回來，說那裡的天氣已經很暖和了。
這間小店開了三十多年，老闆每天早上五點起床，親手做豆漿和飯糰。
學校門口的銀杏樹葉子都黃了，風一吹就落滿整條街道。
科學家認為，這種魚只生活在很深的海底，人們對牠的了解還非常少。
妹妹問我為什麼月亮會跟著我們走，我想了半天也不知道怎樣回答。
新的圖書館明年三月開放，裡面有十萬本書，還有一個安靜的花園。
請您在填寫表格以前仔細閱讀說明，如果有問題可以打電話給我們。
他們沿著山路走了六個小時，終於在天黑之前看到了村子裡的燈光。
經濟發展不能只看速度，更要看人民的生活是不是真正得到了改善。
比賽最後一分鐘，他把球傳給隊友，全場觀眾都站了起來。
這本書講的是一個木匠的故事，寫得簡單而且動人，很多人讀完都哭了。
醫院旁邊新蓋了一個停車場，可是到了週末還是找不到位置。
""",
    "ja": """
昨日の夕方、川のそばで古い友達に会いました。南の町から帰ったばかりだそうです。
この店は三十年前から続いていて、主人は毎朝五時に起きてパンを焼きます。
学校の前の木はすっかり黄色くなり、風が吹くたびに葉が道に落ちます。
東京から電車で二時間ほどの小さな駅に、白い猫が住んでいる。
新しい図書館は来年の三月に開く予定で、静かな庭もあるという。
研究者によると、この魚は深い海の底にしかいないため、まだよく知られていない。
コーヒーを飲みながら、彼女はノートに短い手紙を書き始めた。
試合の最後に選手がボールを蹴ると、観客は全員立ち上がった。
""",
    "ko": """
어제 저녁에 강가에서 오랜 친구를 만났는데, 그는 남쪽 도시에서 막 돌아온 길이었다.
이 가게는 삼십 년 전에 문을 열었고 주인은 매일 아침 다섯 시에 빵을 굽는다.
학교 앞 나무들이 모두 노랗게 물들어 바람이 불 때마다 잎이 떨어진다.
새 도서관은 내년 봄에 문을 열 예정이며 조용한 정원도 있다고 한다.
과학자들은 이 물고기가 깊은 바다에만 살기 때문에 아직 잘 알려지지 않았다고 말한다.
동생이 달은 왜 우리를 따라오느냐고 물었지만 나는 대답하지 못했다.
경기가 끝나기 직전에 그가 공을 넘기자 관중들이 모두 일어섰다.
시장에서 사과와 배를 사서 할머니 댁에 가는 버스를 탔습니다.
""",
    "ru": """
Вчера вечером у реки я встретил старого друга, который только что вернулся с юга.
Этот магазин открылся тридцать лет назад, и хозяин каждое утро сам печёт хлеб.
Деревья перед школой совсем пожелтели, и ветер несёт листья по всей улице.
Новая библиотека откроется весной, в ней будет сто тысяч книг и тихий сад.
Учёные считают, что эта рыба живёт только на большой глубине моря.
Сестра спросила, почему луна идёт за нами, а я не знал, что ответить.
Они шли по горной дороге шесть часов и до темноты увидели огни деревни.
Перед тем как заполнить анкету, внимательно прочитайте правила.
""",
    "fr": """
Hier soir, près de la rivière, j'ai rencontré un vieil ami qui était revenu du sud.
Cette boutique existe déjà depuis trente années et le père y fait lui-même son pain.
Les élèves ont planté un chêne derrière l'école où leur grand-mère a étudié.
La bibliothèque sera ouverte dès février, à côté du théâtre de la forêt.
Le garçon français a reçu une lettre très brève, écrite à l'été précédent.
""",
    "de": """
Gestern traf ich am Fluß einen früheren Mitschüler, der gerade aus Österreich zurück war.
Das Geschäft öffnet um fünf Uhr, und der Bäcker grüßt jeden über die Straße hinweg.
Die Bäume vor der Schule färben sich schön gelb, wenn die Nächte kühler werden.
Für die Prüfung müssen die Schüler zwölf Wörter erklären und ein Märchen erzählen.
""",
    "pl": """
Wczoraj wieczorem spotkałem nad rzeką starego przyjaciela, który właśnie wrócił z południa.
Ten sklep działa już trzydzieści lat, a właściciel codziennie rano sam piecze świeży chleb.
Drzewa przed szkołą zupełnie pożółkły i wiatr niesie liście wzdłuż całej ulicy.
Żółta łódź płynęła wśród gęstej mgły, aż ktoś krzyknął, że widać już brzeg.
Nowa biblioteka będzie otwarta w przyszłym roku i znajdzie się w niej sto tysięcy książek.
""",
    "cs": """
Včera večer jsem u řeky potkal starého přítele, který se právě vrátil z jihu.
Příliš žluťoučký koláč ležel na stole, dokud ho děti nesnědly úplně celý.
Stromy před školou už zežloutly a vítr žene listí přes náměstí až k nádraží.
Nová knihovna bude otevřena příští měsíc a bude v ní čtyřicet tisíc knížek.
""",
    "th": """
เมื่อวานตอนเย็นฉันพบเพื่อนเก่าที่ริมแม่น้ำ เขาเพิ่งกลับมาจากทางใต้
ร้านนี้เปิดมาสามสิบปีแล้ว และเจ้าของร้านทำขนมปังเองทุกเช้า
ห้องสมุดแห่งใหม่จะเปิดในปีหน้า มีหนังสือมากมายและสวนที่เงียบสงบ
นักวิทยาศาสตร์เชื่อว่าปลาชนิดนี้อาศัยอยู่ในทะเลลึกเท่านั้น
น้องสาวถามว่าทำไมพระจันทร์จึงเดินตามเรา แต่ฉันไม่รู้จะตอบอย่างไร
""",
    "el": """
Χθες το βράδυ συνάντησα στο ποτάμι έναν παλιό φίλο που είχε μόλις γυρίσει από τον νότο.
Το μαγαζί άνοιξε πριν από τριάντα χρόνια και ο ιδιοκτήτης ψήνει μόνος του το ψωμί.
Η νέα βιβλιοθήκη θα ανοίξει την άνοιξη και θα έχει έναν ήσυχο κήπο.
""",
    "he": """
אתמול בערב פגשתי ליד הנהר חבר ותיק שחזר זה עתה מן הדרום.
החנות הזאת נפתחה לפני שלושים שנה ובעל הבית אופה בה לחם בכל בוקר.
הספרייה החדשה תיפתח באביב ויהיה בה גן שקט.
""",
    "ar": """
التقيت مساء أمس عند النهر بصديق قديم عاد لتوه من الجنوب.
فتح هذا الدكان قبل ثلاثين سنة وصاحبه يخبز الخبز بنفسه كل صباح.
ستفتح المكتبة الجديدة في الربيع وفيها حديقة هادئة وكتب كثيرة.
""",
    "tr": """
Dün akşam nehir kıyısında güneyden yeni dönmüş eski bir arkadaşıma rastladım.
Bu dükkân otuz yıl önce açıldı ve sahibi her sabah ekmeği kendisi pişiriyor.
Yeni kütüphane önümüzdeki ilkbaharda açılacak, içinde sessiz bir bahçe de olacak.
""",
    "en": """
Yesterday evening I met an old friend by the river, who had just come back from the south.
This shop opened thirty years ago, and its owner bakes the bread every morning at five.
Nobody knew why the moon would follow us home – and so the child went on asking: “Why?”
The new library will open next spring, with a hundred thousand books and a quiet garden…
""",
}
ENCODINGS = (
    ("gb18030", "zh"),
    ("big5hkscs", "zh-Hant"),
    ("euc_jp", "ja"),
    ("cp932", "ja"),
    ("cp949", "ko"),
    ("cp1251", "ru"),
    ("koi8_r", "ru"),
    ("cp1252", "fr"),
    ("cp1252", "de"),
    ("cp1250", "pl"),
    ("iso8859_2", "cs"),
    ("cp1250", "cs"),
    ("cp874", "th"),
    ("cp1253", "el"),
    ("cp1255", "he"),
    ("cp1256", "ar"),
    ("cp1254", "tr"),
    ("utf-16-le", "zh"),
    ("utf-16-be", "zh"),
    ("utf-16-le", "zh-Hant"),
    ("utf-16-le", "ja"),
    ("utf-16-be", "ko"),
    ("utf-16-le", "ru"),
    ("utf-16-le", "en"),
    ("utf-16-be", "en"),
    ("utf-8", "zh"),
    ("utf-8", "fr"),
)


def pieces(language: str, length: int, count: int) -> Iterator[str]:
    """Yields so many pieces of so many characters, the same ones every time.

    Each begins where a word does, or a character where a script has no spaces, and has a character
    beyond ASCII.
    """
    generator = random.Random(f"{language} {length}")
    has_spaces = language not in ("zh", "zh-Hant", "ja", "th")
    text = (" " if has_spaces else "").join(TEXTS[language].split("\n")).strip()
    while count:
        start = generator.randrange(len(text) - length)
        if has_spaces:
            start = text.find(" ", start) + 1
        piece = text[start : start + length].strip()
        is_whole = len(piece) == length and unicodedata.category(piece[0]) != "Mn"
        if is_whole and (language == "en" or not piece.isascii()):
            count -= 1
            yield piece


def shares(
    encoding: str, language: str, length: int, form: str, count: int = NUM_SAMPLES
) -> tuple[float, float]:
    """Gives which shares of the pieces are read right and wrong, in the form "page" or "text"."""
    right = wrong = 0
    for piece in pieces(language, length, count):
        text = PAGE.format(piece) if form == "page" else piece
        found = web_text.decode(text.encode(encoding))
        right += found.text == text
        wrong += not found.reason and found.text != text
    return right / count, wrong / count


def main(argv: Sequence[str]) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forms", default="page,text", help="page, text, with a comma between")
    parser.add_argument("--output", help="a file for the numbers as JSON")
    args = parser.parse_args(argv[1:])
    found = []
    for form in args.forms.split(","):
        print(f"{form:24}" + "".join(f"{length:>12}" for length in LENGTHS))
        for encoding, language in ENCODINGS:
            row = [shares(encoding, language, length, form) for length in LENGTHS]
            found.append([form, encoding, language, row])
            cells = "".join(f"{f'{right:.0%} {wrong:.0%}':>12}" for right, wrong in row)
            print(f"{f'{encoding} {language}':24}{cells}")
    if args.output:
        with open(args.output, "w") as file:
            json.dump(found, file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
