"""One side of `benchmarks.near_duplicates`, run by the Python that has what it needs."""

import json
import pathlib
import re
import string
import sys
import tempfile
import time

PEERS = {
    "datatrove": "datatrove 0.10.1",
    "datasketch": "datasketch 2.0.0",
    "rensa": "rensa 0.5.0",
}
_SETTINGS = dict(
    ngram=5, num_bands=16, band_rows=6, threshold=0.8, measure="jaccard", max_compared=32
)
_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}，。！？、；：“”‘’（）《》…\\s]+")


def main(side: str, case: str, path: str, language: str) -> None:
    if case == "whole":
        with tempfile.TemporaryDirectory() as folder:
            WHOLE[side](pathlib.Path(path), pathlib.Path(folder), language)
        return
    texts = _texts(pathlib.Path(path))
    sign = SIGN[side](language)
    sign(texts[0])  # What is loaded at the first call is not counted.
    start = time.process_time()
    for text in texts:
        sign(text)
    print(time.process_time() - start)


def _texts(path: pathlib.Path) -> list[str]:
    with path.open() as lines:
        return [json.loads(line)["text"] for line in lines]


def _ours(language: str):
    from lm.curation import duplicates

    settings = duplicates.NearDuplicates(**_SETTINGS)
    return lambda text: duplicates.sketch(text, settings)


def _datatrove(language: str):
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature

    code = {"english": "eng", "chinese": "cmn"}[language]
    with tempfile.TemporaryDirectory() as folder:
        step = MinhashDedupSignature(folder, language=code)
    return lambda text: step.get_signature(step.get_shingles(text))


def _shingles(text: str, language: str) -> list[str]:
    clean = _PUNCTUATION.sub(" ", text.lower())
    units = clean.split() if language == "english" else clean.replace(" ", "")
    return [" ".join(units[i : i + 5]) for i in range(len(units) - 4)]


def _datasketch(language: str):
    import datasketch

    def sign(text):
        sketch = datasketch.MinHash(num_perm=96)
        sketch.update_batch([shingle.encode() for shingle in _shingles(text, language)])
        return sketch.hashvalues

    return sign


def _rensa(language: str):
    import rensa

    def sign(text):
        sketch = rensa.RMinHash(num_perm=96, seed=0)
        sketch.update(_shingles(text, language))
        return sketch.digest()

    return sign


SIGN = {"ours": _ours, "datatrove": _datatrove, "datasketch": _datasketch, "rensa": _rensa}


def _whole_ours(path, folder, language) -> None:
    """Does what a curation does of duplicates, and what it reads and writes for it."""
    from lm.curation import cache, duplicates, inputs, pipeline, web_text
    from lm.curation.engines import local

    one = inputs.make_input(
        name="texts",
        kind="jsonl",
        path=str(path),
        field="text",
        licence="",
        max_document_bytes=10_000_000,
        limits=web_text.Limits(10.0, 2**31),
    )
    with local.opened(num_workers=1, num_shards=16, sort_bytes=64_000_000) as engine:
        stages = pipeline.Pipeline(engine, cache.StageCache(folder))
        stages.read([one])
        stages.drop_duplicates(duplicates.NearDuplicates(**_SETTINGS))
        stages.kept()


def _whole_datatrove(path, folder, language) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    code = {"english": "eng", "chinese": "cmn"}[language]
    at = lambda name: str(folder / name)
    read = lambda: JsonlReader(str(path.parent))
    stages = [
        [read(), MinhashDedupSignature(at("signatures"), language=code)],
        [MinhashDedupBuckets(at("signatures"), at("buckets"))],
        [MinhashDedupCluster(at("buckets"), at("removed"))],
        [read(), MinhashDedupFilter(at("removed")), JsonlWriter(at("kept"), compression=None)],
    ]
    for i, stage in enumerate(stages):
        tasks = 14 if i == 1 else 1  # As many as there are bands.
        LocalPipelineExecutor(
            stage, tasks=tasks, workers=1, logging_dir=at(f"logs{i}"), skip_completed=False
        ).run()


WHOLE = {"ours": _whole_ours, "datatrove": _whole_datatrove}

if __name__ == "__main__":
    main(*sys.argv[1:])
