"""The pipeline: inputs -> stages -> a corpus with an account of every document."""

import functools
import hashlib
import importlib.metadata
import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lm.curation import inputs as inputs_lib
from lm.curation import ledger as ledger_lib
from lm.curation import repair as repair_lib
from lm.curation import shards, stages
from lm.curation.cache import StageCache
from lm.curation.engines.engine import Engine
from lm.errors import UserError
from lm.settings import call
from lm.system import atomic_files
from lm.system.progress_bar import waiting

SPLITS = ("train", "validation")
CORPUS, PROVENANCE, REPORT = "corpus", "provenance.jsonl.zst", "report.json"
_META = "corpus.json"


class Stages(NamedTuple):
    """Folders of stages: `final` has a record of every document that was read."""

    by_name: dict[str, pathlib.Path]

    @property
    def final(self) -> pathlib.Path:
        return list(self.by_name.values())[-1]


def run_stages(
    engine: Engine,
    cache: StageCache,
    inputs: Sequence[inputs_lib.Input],
    blocks: Mapping[str, Mapping[str, Any]],
) -> Stages:
    """Makes all stages that the cache does not have.

    Args:
      engine: applies them.
      cache: keeps them.
      inputs: to read.
      blocks: settings of the stages, by the name of their block.

    Raises:
      UserError: a file changed while it was read, or cannot be read by this user.
    """
    call(repair_lib.check, "repair", blocks["repair"])
    shape = {"num_shards": engine.num_shards}
    found: dict[str, pathlib.Path] = {}

    def read(folder: pathlib.Path) -> None:
        tasks = [task for one in inputs for task in inputs_lib.tasks_of(one)]
        engine.sort(inputs_lib.read, tasks, folder)
        inputs_lib.check_unchanged(inputs)

    with waiting("hashing the inputs"):
        prints = sorted(inputs_lib.fingerprint(one) for one in inputs)
    found["read"] = cache.stage("read", [], shape | {"inputs": prints}, read)

    def map_stage(name: str, change: stages.ChangeFn, settings: Any) -> None:
        before = list(found.values())[-1:]
        apply = functools.partial(stages.each, change=change)
        with waiting(name):
            found[name] = cache.stage(
                name, before, settings, lambda folder: engine.map(apply, before, folder)
            )

    repaired = functools.partial(stages.repaired, **blocks["repair"])
    map_stage("repair", repaired, [dict(blocks["repair"]), _version("ftfy")])
    with waiting("duplicates"):
        found["duplicates"] = _equal_texts(engine, cache, found["repair"])
    return Stages(found)


def _equal_texts(engine: Engine, cache: StageCache, before: pathlib.Path) -> pathlib.Path:
    shard_paths = lambda folder: [
        folder / shards.name(shard, engine.num_shards) for shard in range(engine.num_shards)
    ]
    texts = cache.stage(
        "texts", [before], {}, lambda f: engine.sort(stages.by_text, shard_paths(before), f)
    )
    equal = cache.stage(
        "equal", [texts], {}, lambda f: engine.sort(stages.equal_texts, shard_paths(texts), f)
    )
    apply = functools.partial(stages.decided, stage="duplicates")
    return cache.stage(
        "without-equal", [before, equal], {}, lambda f: engine.map(apply, [before, equal], f)
    )


def _version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def write_corpus(
    engine: Engine,
    cache: StageCache,
    final: pathlib.Path,
    workdir: pathlib.Path,
    *,
    validation_share: float,
) -> dict[str, Any]:
    """Writes the corpus, provenance.jsonl.zst and report.json; gives the report.

    Args:
      engine, cache: see `run_stages`.
      final: its last stage.
      workdir: to write into.
      validation_share: of documents, chosen by their ids, that are held out.

    Raises:
      UserError: no document is left for a split.
      AssertionError: the account does not add up.
    """
    if not 0 < validation_share < 1:
        raise UserError(f"output.validation_share={validation_share} must lie in (0, 1)")
    report_path = workdir / REPORT
    if (workdir / CORPUS / _META).exists() and report_path.exists():
        meta = json.loads((workdir / CORPUS / _META).read_bytes())
        if meta["made_of"] == final.name:
            return json.loads(report_path.read_bytes())
    paths = [final / shards.name(shard, engine.num_shards) for shard in range(engine.num_shards)]
    chosen = cache.stage(
        "kept", [final], {}, lambda folder: engine.sort(stages.kept, paths, folder)
    )
    unfinished = workdir / f"{CORPUS}.unfinished"
    meta: dict[str, Any] = {"format": 1, "made_of": final.name, "splits": {}}
    for split in SPLITS:
        apply = functools.partial(stages.of_split, split=split, validation_share=validation_share)
        engine.map(apply, [chosen], unfinished / split)
        written = sorted((unfinished / split).glob("*.jsonl.zst"))
        meta["splits"][split] = {path.name: _entry(path) for path in written}
    fingerprint = hashlib.sha256(json.dumps(meta["splits"], sort_keys=True).encode())
    meta["fingerprint"] = fingerprint.hexdigest()
    engine.map(stages.without_text, [final], unfinished / "provenance")
    with atomic_files.replacing(workdir / PROVENANCE) as part, part.open("wb") as file:
        for path in sorted((unfinished / "provenance").glob("*.jsonl.zst")):
            with path.open("rb") as shard:
                shutil.copyfileobj(shard, file)
    shutil.rmtree(unfinished / "provenance")
    counted = ledger_lib.total(engine.fold(ledger_lib.count, [final]))
    report = {"ledger": ledger_lib.rows(counted)}
    atomic_files.write(report_path, json.dumps(report, indent=1))
    atomic_files.write(unfinished / _META, json.dumps(meta, indent=1))
    shutil.rmtree(workdir / CORPUS, ignore_errors=True)
    atomic_files.rename_folder(unfinished, workdir / CORPUS)
    return report


def _entry(path: pathlib.Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "num_bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }
