"""The pipeline: inputs -> stages -> a corpus with an account of every document."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import json
import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lm.curation import (
    contamination_stages,
    judging,
    near_stages,
    private_data,
    shards,
    stages,
    summary,
)
from lm.curation import inputs as inputs_lib
from lm.curation import language as language_lib
from lm.curation import ledger as ledger_lib
from lm.curation import repair as repair_lib
from lm.curation.cache import StageCache
from lm.curation.duplicates import NearDuplicates
from lm.curation.engines.engine import Engine
from lm.curation.thresholds import Thresholds
from lm.errors import UserError
from lm.settings import call, choose
from lm.system import atomic_files
from lm.system.progress_bar import waiting

SPLITS = ("train", "validation")
STAGES = (
    "read",
    "repair",
    "private",
    "language",
    "quality",
    "duplicates",
    "decontaminate",
)  # That drop documents, in order.
CORPUS, PROVENANCE, REPORT = "corpus", "provenance.jsonl.zst", "report.json"
_META = "corpus.json"
_ITEMS = "items.json"  # Of the last stage: which items were looked for.


class Settings(NamedTuple):
    """The blocks of the config that shape the corpus, each checked by what reads it."""

    repair: dict[str, Any]
    language: dict[str, Any]
    thresholds: Thresholds
    private: dict[str, Any]
    duplicates: NearDuplicates | None
    items: contamination_stages.Items | None
    validation_share: float


def make_settings(blocks: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Checks the blocks; raises UserError for what cannot be."""
    call(repair_lib.check, "repair", blocks["repair"])
    repair, private = dict(blocks["repair"]), call(_private, "private", blocks["private"])
    mend = lambda text: private_data.mask(repair_lib.repair(text, **repair), **private)[0]
    return Settings(
        repair=repair,
        language=call(_language, "language", blocks["language"]),
        thresholds=call(judging.make_thresholds, "quality", blocks["quality"], mend=mend),
        private=private,
        duplicates=call(_duplicates, "duplicates", blocks["duplicates"]),
        items=call(contamination_stages.make_items, "decontaminate", blocks["decontaminate"]),
        validation_share=call(_output, "output", blocks["output"]),
    )


def _language(*, keep: Sequence[str]) -> dict[str, Any]:
    names = _names(keep)
    for name in names:
        if name not in language_lib.LANGUAGES:
            raise UserError(
                f"language.keep={name!r} is no language that texts are told to be in; write codes "
                "of ISO 639, such as en and zh, or und"
            )
    return {"keep": names}


def _private(*, kinds: Sequence[str]) -> dict[str, Any]:
    names = _names(kinds)
    for kind in names:
        choose("private.kinds", kind, private_data.KINDS)
    return {"kinds": names}


def _names(given: Sequence[str]) -> tuple[str, ...]:
    """("en",) -> ("en",), and as a command line gives "en,zh": ("en,zh",) -> ("en", "zh")."""
    return tuple(name.strip() for each in given for name in each.split(",") if name.strip())


def _output(*, validation_share: float) -> float:
    if not 0 < validation_share < 1:
        raise UserError(f"output.validation_share={validation_share} must lie in (0, 1)")
    return validation_share


def _duplicates(
    *,
    near: bool,
    ngram: int,
    num_bands: int,
    band_rows: int,
    threshold: float,
    measure: str,
    max_compared: int,
) -> NearDuplicates | None:
    settings = NearDuplicates(ngram, num_bands, band_rows, threshold, measure, max_compared)
    return settings if near else None


class Pipeline:
    """Makes stages that the cache does not have, one behind the other.

    `stages` has the folder of each by name, of which the last has a record of every document that
    was read.
    """

    def __init__(self, engine: Engine, cache: StageCache):
        self.stages: dict[str, pathlib.Path] = {}
        self.thresholds: Thresholds = {}
        self._engine, self._cache = engine, cache

    @property
    def final(self) -> pathlib.Path:
        """The folder of the last stage."""
        return list(self.stages.values())[-1]

    def run(
        self,
        inputs: Sequence[inputs_lib.Input],
        settings: Settings,
        tasks: Sequence[inputs_lib.Task] = (),
    ) -> None:
        """Reads the inputs, or these tasks alone, and decides of every document.

        Raises:
          UserError: a file changed while it was read, or cannot be read by this user.
        """
        self.read(inputs, tasks)
        self._each("repair", stages.repaired, settings.repair, "ftfy")
        # Before what judges texts, which judges them as they are written.
        self._each("private", stages.masked, settings.private)
        self._each("language", stages.told, settings.language, "pycld2")
        self._each("measure", judging.measured, {})
        self.thresholds = settings.thresholds
        self._each("quality", judging.judged, {"thresholds": settings.thresholds})
        self.drop_duplicates(settings.duplicates)
        if settings.items is not None:
            self._decontaminate(settings.items)

    def read(
        self, inputs: Sequence[inputs_lib.Input], tasks: Sequence[inputs_lib.Task] = ()
    ) -> None:
        """Reads the inputs, or these tasks alone; see `run`."""

        def read(folder: pathlib.Path) -> None:
            whole = [task for one in inputs for task in inputs_lib.tasks_of(one)]
            self._engine.sort(inputs_lib.read, tasks or whole, folder)
            try:
                inputs_lib.check_unchanged(inputs)
            except UserError:
                shutil.rmtree(folder)  # Else it is gone on with, once the file is as it was.
                raise

        with waiting("read"):
            prints = [] if tasks else sorted(inputs_lib.fingerprint(one) for one in inputs)
            shape = {"num_shards": self._engine.num_shards, "inputs": prints}
            self.stages["read"] = self._cache.stage("read", [], shape, read)

    def drop_duplicates(self, near: NearDuplicates | None) -> None:
        """Drops equal texts, and near-duplicates unless `near` is None."""
        with waiting("duplicates"):
            texts = self._sort("texts", stages.by_text, [self.final])
            equal = self._sort("equal", stages.equal_texts, [texts])
            self._decide("without_equal", equal)
            if near is not None:
                self.thresholds = self.thresholds | {"*": {"similarity": (None, near.threshold)}}
                self._decide("without_near", self._near(texts, near))

    def _decontaminate(self, items: contamination_stages.Items) -> None:
        before = self.final

        def make(folder: pathlib.Path) -> None:
            count = functools.partial(contamination_stages.frequencies, index=items.index)
            rare = contamination_stages.without_common(items, self._engine.fold(count, [before]))
            change = functools.partial(contamination_stages.without_items, items=rare)
            self._engine.map(functools.partial(stages.each, change=change), [before], folder)
            found = {"searched": len(items.index.names), "not_searched": rare.index.not_searched}
            atomic_files.write(folder / _ITEMS, json.dumps(found))

        shape = [items.digest, items.action, dataclasses.asdict(items.settings)]
        with waiting("decontaminate"):
            self.stages["decontaminate"] = self._cache.stage("clean", [before], shape, make)

    def _each(
        self, name: str, change: Callable[..., Any], settings: dict[str, Any], *packages: str
    ) -> None:
        before = self.final
        apply = functools.partial(stages.each, change=functools.partial(change, **settings))
        versions = [f"{each} {importlib.metadata.version(each)}" for each in packages]
        with waiting(name):
            self.stages[name] = self._cache.stage(
                name,
                [before],
                [settings, versions],
                lambda folder: self._engine.map(apply, [before], folder),
            )

    def _decide(self, name: str, decisions: pathlib.Path) -> None:
        before = [self.final, decisions]
        apply = functools.partial(stages.decided, stage="duplicates")
        self.stages[name] = self._cache.stage(
            name, before, {}, lambda folder: self._engine.map(apply, before, folder)
        )

    def _sort(
        self,
        name: str,
        emit: Callable[[Any], Iterable[bytes]],
        before: Sequence[pathlib.Path],
        settings: NearDuplicates | None = None,
        *,
        is_whole: bool = False,
    ) -> pathlib.Path:
        """Sorts what `emit` gives for each shard of the data sets, or for all of one at once."""
        tasks = list(zip(*map(self._shards, before), strict=True))
        if is_whole:
            tasks = [tuple(itertools.chain.from_iterable(tasks))]
        shape = {} if settings is None else dataclasses.asdict(settings)
        if settings is not None:
            emit = functools.partial(emit, settings=settings)
        return self._cache.stage(
            name, before, shape, lambda folder: self._engine.sort(emit, tasks, folder)
        )

    def _shards(self, folder: pathlib.Path) -> list[pathlib.Path]:
        num_shards = self._engine.num_shards
        return [folder / shards.name(shard, num_shards) for shard in range(num_shards)]

    def _near(self, texts: pathlib.Path, settings: NearDuplicates) -> pathlib.Path:
        documents = self.final
        bands = self._sort("bands", near_stages.band_keys, [documents], settings)
        buckets = self._sort("buckets", near_stages.memberships, [bands])
        parts = self._sort("components", near_stages.components, [buckets], is_whole=True)
        asked = self._sort("asked", near_stages.contested_documents, [texts, buckets, parts])
        contested = self._sort("contested", near_stages.by_component, [documents, asked], settings)
        return self._sort("near", near_stages.decisions, [contested], settings)

    def kept(self) -> pathlib.Path:
        """The documents that are left, by the hashes of their texts."""
        return self._sort("kept", stages.kept, [self.final])


def write_corpus(
    engine: Engine, pipeline: Pipeline, workdir: pathlib.Path, *, validation_share: float
) -> dict[str, Any]:
    """Writes the corpus, provenance.jsonl.zst and report.json; gives the report.

    Args:
      engine: applies stages.
      pipeline: has run.
      workdir: to write into.
      validation_share: of documents, chosen by their ids, that are held out.
    """
    final, report_path = pipeline.final, workdir / REPORT
    if (workdir / CORPUS / _META).exists() and report_path.exists():
        meta = json.loads((workdir / CORPUS / _META).read_bytes())
        if meta["made_of"] == final.name:
            return json.loads(report_path.read_bytes())
    chosen = pipeline.kept()
    # Of these documents alone: shards that are there already are not written again.
    unfinished = workdir / f"{CORPUS}-{final.name}.unfinished"
    for other in {*workdir.glob(f"{CORPUS}*.unfinished")} - {unfinished}:
        shutil.rmtree(other)
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
    text = json.dumps(make_report(engine, pipeline), indent=1, ensure_ascii=False)
    atomic_files.write(report_path, text)
    atomic_files.write(unfinished / _META, json.dumps(meta, indent=1))
    shutil.rmtree(workdir / CORPUS, ignore_errors=True)
    atomic_files.rename_folder(unfinished, workdir / CORPUS)
    return json.loads(text)


def make_report(engine: Engine, pipeline: Pipeline) -> dict[str, Any]:
    """Counts all that became of documents; see `summary.report`.

    Raises:
      AssertionError: fewer or more documents ended than were read.
    """
    add = lambda parts: sum(parts, start=summary.nothing())
    total = add(map(summary.of_json, engine.fold(summary.summarize_as_json, [pipeline.final])))
    rows = engine.fold(ledger_lib.count_rows, [pipeline.stages["read"]])
    read = ledger_lib.total(map(ledger_lib.of_rows, rows))
    for of in ("source",), ():
        assert ledger_lib.by(read, of) == ledger_lib.by(total.ledger, of), "documents are missing"
    ids = frozenset(cluster[1] for cluster in total.clusters)
    examples = functools.partial(summary.examples, ids=ids)
    found = engine.fold(examples, [pipeline.final]) if ids else []  # All documents are read again.
    report = summary.report(total, summary.add_examples(found), STAGES, pipeline.thresholds)
    if pipeline.thresholds.keys() - {"*"}:
        later = STAGES[STAGES.index("quality") + 1 :]
        report |= {"not_judged": judging.not_judged(total.ledger, pipeline.thresholds, later)}
    items = pipeline.final / _ITEMS
    return report | ({"items": json.loads(items.read_bytes())} if items.exists() else {})


def _entry(path: pathlib.Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "num_bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }
