"""Measures how biased a model is: a table, a file of JSON and a picture."""

import pathlib

import ml_collections

from experiments import report
from experiments.fairness import (
    choices,
    comparison,
    groups,
    pairs,
    stereoset,
    substitution,
    toxicity,
    winobias,
    winogender,
)
from experiments.wiring.number_ranges import folder_of
from lm.parallel.mesh import make_mesh
from lm.results import forest_plot, plots
from lm.settings import keywords, lookup
from lm.system import atomic_files


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Prints the table, and writes fairness.json and fairness.png into `workdir`.

    Raises:
      UserError: before anything is written, for what cannot be measured.
    """
    measure = lookup("what", config.what, _MEASURES)
    if config.what == "compare":
        measured = comparison.measure(config.before, config.after)
    elif config.what == "choices" and config.answer:
        target = config.target_answer
        measured = choices.measure_answers(config.data, config.answer, target, config.seed)
    else:
        folder, mesh = folder_of(config.checkpoint), make_mesh(**config.parallel)
        # What this way to measure asks of the config.
        settings = {name: config[name] for name in keywords(measure)}
        measured = measure(folder, mesh, config.data, **settings)
    workdir.mkdir(parents=True, exist_ok=True)
    text = report.as_json(config.to_dict() | measured.contents, indent=1)
    atomic_files.write(workdir / "fairness.json", text + "\n")
    if missing := forest_plot.save(measured.panels, workdir / "fairness.png", line=measured.line):
        print(plots.font_hint(missing))
    print(f"written to {workdir}: fairness.json, fairness.png")
    return 0


_MEASURES = {
    "pairs": pairs.measure,
    "stereoset": stereoset.measure,
    "winogender": winogender.measure,
    "winobias": winobias.measure,
    "choices": choices.measure,
    "groups": groups.measure,
    "substitution": substitution.measure,
    "toxicity": toxicity.measure,
    "compare": comparison.measure,
}
