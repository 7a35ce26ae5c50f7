#!/bin/bash
# A web archive that was cut short is read without an error.
#
# Guess: a .warc.gz that ends in the middle of a record raises, as gzip does.
# Instead: fastwarc and warcio give the records before, and end as at the end of a whole file.
# Versions: fastwarc 2.0.1, warcio 1.8.1. Seen in December 2026:
#   whole: 300 records; cut: gzip EOFError, fastwarc 201, warcio 201
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q fastwarc==2.0.1 warcio==1.8.1
cat > show.py <<'PY'
import gzip
import io

from fastwarc.warc import ArchiveIterator as FastWarc
from warcio.archiveiterator import ArchiveIterator as WarcIo

head = "WARC/1.0\r\nWARC-Type: resource\r\nWARC-Target-URI: http://a/{}\r\nContent-Length: {}\r\n"
head += "WARC-Record-ID: <urn:uuid:{}>\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n\r\n"
body = b"a text that is some words long\n" * 40
records = [head.format(i, len(body), i).encode() + body + b"\r\n\r\n" for i in range(300)]
whole = b"".join(map(gzip.compress, records))
cut = whole[: len(whole) * 2 // 3 + 50]


def count(iterator):
    number = 0
    for record in iterator:
        (getattr(record, "reader", None) or record.content_stream()).read()
        number += 1
    return number


print("whole:", count(FastWarc(io.BytesIO(whole))), "records")
try:
    gzip.decompress(cut)
    said = "no error"
except EOFError:
    said = "EOFError"
found = count(FastWarc(io.BytesIO(cut))), count(WarcIo(io.BytesIO(cut)))
print(f"cut: gzip {said}, fastwarc {found[0]}, warcio {found[1]}")
assert said == "EOFError" and all(190 < n < 210 for n in found), "it is told now"
print("still so")
PY
env/bin/python show.py
