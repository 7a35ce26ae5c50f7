#!/bin/bash
# A WordPiece or Unigram tokenizer that `tokenizers` trains twice on one text differs.
#
# Guess: training draws nothing at random, so the same text and settings give the same tokenizer;
# whoever keeps the script and the text can make the vocabulary of a model again.
# Instead: WordPiece holds the same pieces under other ids each time, so that a model's embeddings
# belong to other pieces; Unigram also splits the text otherwise. In one process, and with one
# thread, too. BPE is the same each time.
# Versions: tokenizers 0.23.3. Seen in November 2026 (of 4 trainings: files, vocabularies, sequences):
#   BPE 1 1 1    WordPiece 4 1 1    Unigram 4 1 4
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q tokenizers==0.23.3
cat > show.py <<'PY'
import pathlib

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

files = sorted(pathlib.Path(pathlib.__file__).parent.glob("*.py"))[:40]
text = [line for file in files for line in file.read_text().splitlines()]
KINDS = {
    "BPE": (models.BPE, trainers.BpeTrainer),
    "WordPiece": (models.WordPiece, trainers.WordPieceTrainer),
    "Unigram": (models.Unigram, trainers.UnigramTrainer),
}


def train(kind):
    model, trainer = KINDS[kind]
    tokenizer = Tokenizer(model())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(text, trainer(vocab_size=500, show_progress=False))
    split = [encoding.tokens for encoding in tokenizer.encode_batch(text)]
    return tokenizer.to_str(), str(sorted(tokenizer.get_vocab())), str(split)


seen = {kind: [len(set(x)) for x in zip(*(train(kind) for _ in range(4)))] for kind in KINDS}
print("    ".join(f"{kind} {' '.join(map(str, counts))}" for kind, counts in seen.items()))
assert seen["BPE"] == [1, 1, 1]
assert seen["WordPiece"][0] > 1, "WordPiece is the same each time now"
assert seen["Unigram"][0] > 1 and seen["Unigram"][2] > 1, "Unigram is the same each time now"
print("still so")
PY
RAYON_NUM_THREADS=1 env/bin/python show.py
