"""Makes a corpus of some files, with an account of every document."""

import json
import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import ml_collections

from experiments.cli import command, config_text
from lm.curation import inputs as inputs_lib
from lm.curation import ledger as ledger_lib
from lm.curation import pipeline as pipeline_lib
from lm.curation import report as report_lib
from lm.curation import shards, tallies, web_text
from lm.curation.cache import StageCache
from lm.curation.card import card
from lm.curation.engines import choice, local
from lm.errors import UserError
from lm.run import workdir as workdir_lib
from lm.settings import call
from lm.system import atomic_files, safe_text
from lm.system.cache import cache_folder
from lm.system.faults import in_bytes

_SAMPLE = 1000
_HEAD_CHARS = 100


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Curates `inputs` into `workdir`; one that was killed goes on.

    Raises:
      UserError: for what the user can mend, before anything is written where it can be known.
    """
    blocks = config.to_dict()
    inputs, settings = _open(blocks)
    workdir_lib.check(workdir, blocks)
    if config.show_document and not (workdir / pipeline_lib.REPORT).exists():
        raise UserError(f"show_document: --workdir={workdir} has no corpus yet")
    with (
        choice.opened(**blocks["engine"]) as engine,
        workdir_lib.opened(workdir, blocks, data_hash=""),
    ):
        pipeline = pipeline_lib.Pipeline(engine, StageCache(cache_folder("curation")))
        pipeline.run(inputs, settings)
        if config.show_document:
            return _show(pipeline, config.show_document)
        report = pipeline_lib.write_corpus(
            engine, pipeline, workdir, validation_share=settings.validation_share
        )
        atomic_files.write(workdir / "card.md", card(report, inputs, config_text(config)))
        atomic_files.write(workdir / _THRESHOLDS, json.dumps(settings.thresholds, indent=1))
        written = [*_WRITTEN, *report_lib.write(report, workdir)]
    _print_losses(report)
    print(f"written to {workdir}: {', '.join(written)}")
    if report["written"]:
        print(f"train on it: {command(f'--config.data.source=curated:{workdir}')}")
    else:
        print("nothing is kept, so that there is nothing to train on")
    return 0


_THRESHOLDS = "thresholds.json"  # As quality.thresholds takes it.
_WRITTEN = (
    pipeline_lib.CORPUS,
    pipeline_lib.PROVENANCE,
    pipeline_lib.REPORT,
    "card.md",
    _THRESHOLDS,
)


def _open(blocks: dict[str, Any]) -> tuple[list[inputs_lib.Input], pipeline_lib.Settings]:
    if not blocks["inputs"]:
        raise UserError("inputs names none; give --config=configs/curate.py:inputs=NAME+NAME")
    settings = pipeline_lib.make_settings(blocks)
    limits = call(web_text.make_limits, "extract", blocks["extract"])
    inputs = [
        call(inputs_lib.make_input, f"inputs.{name}", block, name=name, limits=limits)
        for name, block in sorted(blocks["inputs"].items())
    ]
    return inputs, settings


def dry_run(blocks: dict[str, Any]) -> int:
    """Curates about a thousand documents in a folder that is deleted, and says what is lost."""
    inputs, settings = _open(blocks)
    tasks = [inputs_lib.sample_of(one, -(-_SAMPLE // len(inputs))) for one in inputs]
    sizes = {name: blocks["engine"][name] for name in ("num_shards", "sort_bytes")}
    with (
        tempfile.TemporaryDirectory(prefix="lm-curate-") as folder,
        local.opened(num_workers=1, **sizes) as engine,
    ):
        start = time.perf_counter()
        pipeline = pipeline_lib.Pipeline(engine, StageCache(pathlib.Path(folder)))
        pipeline.run(inputs, settings, tasks)
        seconds = time.perf_counter() - start
        report = pipeline_lib.make_report(engine, pipeline)
        num_stage_bytes = sum(p.stat().st_size for p in pathlib.Path(folder).rglob("*.zst"))
    _print_losses(report)
    _print_samples(report)
    counted = ledger_lib.of_rows(report["ledger"])
    num_read = ledger_lib.by(counted, ()).get((), ledger_lib.Count()).num_bytes
    num_given = sum(file.size for one in inputs for file in one.files)
    if num_read and num_given:
        speed, share = num_read / seconds, num_stage_bytes / num_read
        print(
            f"{in_bytes(num_read)} of text took {seconds:.1f} s of one process; the inputs have "
            f"{in_bytes(num_given)}, packed ones as they are packed: for each {in_bytes(10**9)} of "
            f"text about {10**9 / speed / 60:,.0f} minutes of one process, and "
            f"{in_bytes(10**9 * share)} in the cache"
        )
    return 0


def _print_losses(report: dict[str, Any]) -> None:
    counted = ledger_lib.of_rows(report["ledger"])
    total = ledger_lib.by(counted, ()).get((), ledger_lib.Count())
    for (stage, reason), count in sorted(ledger_lib.by(counted, ("stage", "reason")).items()):
        what = f"{stage}: {reason}" if stage else "kept"
        share = count.documents / total.documents
        print(f"{what:36} {count.documents:12,} documents {share:7.2%} {count.num_bytes:16,} bytes")
    if not_judged := report.get("not_judged"):
        languages = ", ".join(f"{count:,} {name}" for name, count in not_judged.items())
        print(f"quality: not judged, as no thresholds are known of the language: {languages}")
    for one in tallies.shares(counted, "source"):
        if one.loses_most:
            (num_read, bytes_read), (num_kept, bytes_kept) = one.read, one.kept
            print(
                f"inputs.{one.name} keeps {num_kept:,} of {num_read:,} documents alone, "
                f"{bytes_kept:,} of {bytes_read:,} bytes"
            )
    for group in report["samples"]:
        if group["reason"] == "no_such_field":
            one = group["documents"][0]
            where = f"inputs.{one['source']}.field names no field of {one['place']}"
            print(safe_text.one_line(f"{where}; {one['head']}"))


def _print_samples(report: dict[str, Any]) -> None:
    for group in report["samples"]:
        what = f"{group['stage']}: {group['reason']}" if group["stage"] else "kept"
        print(f"\n{what}, {group['language']}")
        for one in group["documents"][:3]:
            head = " ".join(one["head"].split())[:_HEAD_CHARS]
            print(safe_text.one_line(f"  {one['place']}: {head}" if head else f"  {one['place']}"))


def _show(pipeline: pipeline_lib.Pipeline, name: str) -> int:
    """Prints what is known of a document behind each stage that changed it."""
    before: dict[str, Any] = {}
    for stage, folder in pipeline.stages.items():
        found = _find(sorted(folder.glob("*.jsonl.zst")), name)
        if found is None:
            raise UserError(f"show_document={name!r}: no document has this id, nor stood there")
        changed = {key: value for key, value in found.items() if before.get(key) != value}
        print(f"{stage}: {json.dumps(changed, ensure_ascii=False) if changed else 'as it was'}")
        before = found
    return 0


def _find(paths: Sequence[pathlib.Path], name: str) -> dict[str, Any] | None:
    encoded = json.dumps(name, ensure_ascii=False).encode()
    for path in paths:
        for line in shards.read(path):
            if encoded in line and name in ((fields := json.loads(line))["id"], fields["place"]):
                return fields
    return None
