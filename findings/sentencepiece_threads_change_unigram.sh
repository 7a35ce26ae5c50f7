#!/bin/bash
# SentencePiece's Unigram is another model with another number of threads.
#
# Guess: num_threads is about speed; the model is the same, as BPE's is.
# Instead: scores differ, and with them the order of pieces, which is their ids; of 2,000 pieces, six
# to eight were others. The same number gives the same model each time. The default is 16, whatever
# the machine has: whoever sets it to the number of cores cannot make a vocabulary again elsewhere.
# Versions: sentencepiece 0.2.3. Seen in November 2026 (models of 1, 2, 4, 16 threads, twice each):
#   bpe: 1 of 4    unigram: 4 of 4
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q sentencepiece==0.2.3
cat > show.py <<'PY'
import io
import pathlib

import sentencepiece

files = sorted(pathlib.Path(pathlib.__file__).parent.glob("*.py"))[:40]
text = [line for file in files for line in file.read_text().splitlines()]
THREADS = (1, 2, 4, 16)


def train(kind, num_threads):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=model,
        model_type=kind,
        vocab_size=500,
        num_threads=num_threads,
        minloglevel=2,
    )
    found = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return tuple((found.id_to_piece(i), found.get_score(i)) for i in range(len(found)))


seen = {}
for kind in ("bpe", "unigram"):
    models = {n: {train(kind, n), train(kind, n)} for n in THREADS}
    assert all(len(same) == 1 for same in models.values()), "the same number, another model"
    seen[kind] = len(set.union(*models.values()))
print("    ".join(f"{kind}: {count} of {len(THREADS)}" for kind, count in seen.items()))
assert seen["bpe"] == 1
assert seen["unigram"] > 1, "threads change nothing now"
print("still so")
PY
env/bin/python show.py
