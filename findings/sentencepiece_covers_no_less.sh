#!/bin/bash
# SentencePiece cannot be asked to cover fewer characters than a small vocabulary has room for.
#
# Guess: where a Chinese text has more characters than there are pieces, the error's own remedy,
# "decrease character_coverage", helps, since byte_fallback spells what is not covered.
# Instead: no value below 0.98 is taken, and the error that says so does not name the option in words;
# of Chinese, 98 % of a text are still more characters than 2,048 pieces less 256 bytes. What does
# help is to take the rare characters out of the training texts.
# Versions: sentencepiece 0.2.3. Seen in December 2026 (4,000 characters, 2,048 pieces):
#   0.9995: Vocabulary size is smaller than required_chars
#   0.98: Vocabulary size is smaller than required_chars
#   0.97: character_coverage() >= 0.98
#   without the rare characters: 2048 pieces
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q sentencepiece==0.2.3
cat > show.py <<'PY'
import io
import random

import sentencepiece

draw = random.Random(0)
# As in Chinese, the commonest 1,000 of 4,000 characters are most of the text.
text = "".join(chr(0x4E00 + int(4000 * draw.random() ** 3)) for _ in range(200_000))
SAID = ("Vocabulary size is smaller than required_chars", "character_coverage() >= 0.98")


def train(text, coverage):
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text.split(" ")),
            model_writer=model,
            model_type="bpe",
            vocab_size=2048,
            byte_fallback=True,
            max_sentence_length=1_000_000,
            character_coverage=coverage,
            minloglevel=2,
        )
    except RuntimeError as error:
        return next(said for said in SAID if said in str(error))
    return f"{len(sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()))} pieces"


seen = {str(coverage): train(text, coverage) for coverage in (0.9995, 0.98, 0.97)}
common = "".join(c if ord(c) < 0x4E00 + 1000 else " " for c in text)
seen["without the rare characters"] = train(common, 1.0)
for what, said in seen.items():
    print(f"{what}: {said}")
assert [*seen.values()] == [SAID[0], SAID[0], SAID[1], "2048 pieces"]
print("still so")
PY
env/bin/python show.py
