"""What does Apache Beam cost beside the engine of one machine? `python -m benchmarks.beam`

Both curate the standard library as configs/curate.py does, in turns, each in a process of its own.
Figures are the processor time of that process, imports and starts included.
"""

import argparse
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile

from benchmarks import results

MOST = 1.3  # Times the processor time of one machine's engine.
ARGUMENTS = {"local": "engine=local", "beam": "engine=beam"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=tuple(ARGUMENTS), help="runs this one, in --folder")
    parser.add_argument("--folder", type=pathlib.Path)
    args = parser.parse_args()
    if args.side:
        curate(ARGUMENTS[args.side], args.folder)
        return
    seconds = {name: [] for name in ARGUMENTS}
    for _ in range(args.repeats):  # In turn, so that a noisy minute hits both.
        for side, found in seconds.items():
            found.append(processor_seconds(side))
    medians = {side: statistics.median(found) for side, found in seconds.items()}
    results.emit(
        "beam",
        device="cpu",
        packages=("apache-beam", "protobuf"),
        shape=dict(repeats=args.repeats, source="python_stdlib"),
        unit="seconds",
        ours=medians["beam"],
        peer="the engine of one machine, in one process",
        theirs=medians["local"],
        ratio=medians["local"] / medians["beam"],
        target={"ratio": 1 / MOST},
        note="processor time of a curation, on Beam in memory",
        seconds=seconds,
    )


def processor_seconds(side: str) -> float:
    """The processor time of a curation into an empty folder."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--side={side}", f"--folder={folder}"]
        subprocess.run([sys.executable, "-m", "benchmarks.beam", *flags], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def curate(argument: str, folder: pathlib.Path) -> None:
    """Curates as configs/curate.py with an argument says, in one process."""
    from configs.curate import get_config
    from lm.curation import inputs, pipeline, web_text
    from lm.curation.cache import StageCache
    from lm.curation.engines import choice

    blocks = get_config(argument).to_dict()
    if argument == ARGUMENTS["local"]:
        blocks["engine"]["num_workers"] = 1
    settings = pipeline.make_settings(blocks)
    limits = web_text.make_limits(**blocks["extract"])
    found = [
        inputs.make_input(**block, name=name, limits=limits)
        for name, block in blocks["inputs"].items()
    ]
    with choice.opened(**blocks["engine"]) as engine:
        stages = pipeline.Pipeline(engine, StageCache(folder / "cache"))
        stages.run(found, settings)
        pipeline.write_corpus(engine, stages, folder, validation_share=settings.validation_share)


if __name__ == "__main__":
    main()
