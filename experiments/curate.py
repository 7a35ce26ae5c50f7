"""Makes a corpus of some files, with an account of every document."""

import pathlib

import ml_collections

from experiments.cli import command
from lm.curation import inputs as inputs_lib
from lm.curation import ledger as ledger_lib
from lm.curation import pipeline as pipeline_lib
from lm.curation import web_text
from lm.curation.cache import StageCache
from lm.curation.engines import local
from lm.errors import UserError
from lm.run import workdir as workdir_lib
from lm.settings import call
from lm.system.cache import cache_folder


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Curates `inputs` into `workdir`; one that was killed goes on.

    Raises:
      UserError: for what the user can mend, before anything is written where it can be known.
    """
    settings = config.to_dict()
    if not settings["inputs"]:
        raise UserError("inputs names none; give --config=configs/curate.py:inputs=NAME+NAME")
    limits = call(web_text.make_limits, "extract", settings["extract"])
    inputs = [
        call(inputs_lib.make_input, f"inputs.{name}", block, name=name, limits=limits)
        for name, block in sorted(settings["inputs"].items())
    ]
    stage_settings = pipeline_lib.make_settings(settings)
    workdir_lib.check(workdir, settings)
    with (
        local.opened(**settings["engine"]) as engine,
        workdir_lib.opened(workdir, settings, data_hash=""),
    ):
        pipeline = pipeline_lib.Pipeline(engine, StageCache(cache_folder("curation")))
        pipeline.run(inputs, stage_settings)
        report = call(
            pipeline_lib.write_corpus,
            "output",
            settings["output"],
            engine=engine,
            pipeline=pipeline,
            workdir=workdir,
        )
    _print(report)
    print(f"train on it: {command(f'--config.data.source=curated:{workdir}')}")
    return 0


def _print(report: dict) -> None:
    counted = ledger_lib.of_rows(report["ledger"])
    for (stage, reason), count in sorted(ledger_lib.by(counted, ("stage", "reason")).items()):
        what = f"dropped by {stage}: {reason}" if stage else "kept"
        print(f"{what:40} {count.documents:12,} documents {count.num_bytes:16,} bytes")
