"""Lays what was measured of two runs side by side: a report of before and after."""

import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.fairness.measured import Measured, cell
from lm.errors import UserError
from lm.fairness import comparison
from lm.results.forest_plot import Share
from lm.run import workdir as workdir_lib
from lm.system import safe_text

_OWN = ("checkpoint", "step", "results", "parallel", "batch_size", "num_left_out")  # May differ.


def measure(before: str, after: str) -> Measured:
    """Compares and prints; see `configs/fairness.py` for the settings.

    Raises:
      UserError: a folder without results, or results of different measures.
    """
    found = {name: _read(name, folder) for name, folder in (("before", before), ("after", after))}
    ours, theirs = (found[name].get("what") for name in ("before", "after"))
    if ours != theirs:
        raise UserError(f"before={before} holds what={ours} and after={after} what={theirs}")
    compared = comparison.compare(*(found[name]["results"] for name in ("before", "after")))
    if not compared:
        raise UserError(f"before={before} and after={after} have no measure in common")
    first, second = (found[name] for name in ("before", "after"))
    keys = [key for key in first if key not in _OWN and first[key] != second.get(key)]
    print(f"what={ours}: {first.get('checkpoint')}, then {second.get('checkpoint')}")
    if keys:
        print(f"not only the model differs: {', '.join(keys)}")
    print("\n" + "".join(f"{name:>28}" for name in ("before", "after", "after - before")))
    for name, three in compared.items():
        cells = "".join(f"{cell(one._asdict()):>28}" for one in three)
        print(f"{cells}  {safe_text.one_line(name)}")
    contents = {
        name: {part: one._asdict() for part, one in three._asdict().items()}
        for name, three in compared.items()
    }
    return Measured(dict(measured=ours, results=contents), _panels(compared), line=0.0)


def _read(key: str, folder: str) -> Mapping[str, Any]:
    if not folder:
        raise UserError(f"{key} is not set; name the --workdir of a run of configs/fairness.py")
    path = pathlib.Path(folder) / "fairness.json"
    if not path.exists():
        raise UserError(f"{key}={folder} has no fairness.json; measure first")
    found = workdir_lib.read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("results"), dict):
        raise UserError(f"{key}={folder}: its fairness.json holds no results; measure again")
    return found


def _panels(compared: Mapping[str, comparison.Compared]) -> dict[str, dict[str, Share]]:
    """Draws those that are shares, or as small."""
    is_share = lambda one: (
        one.value is None or max(map(abs, (one.value, *(one.interval or ())))) <= 1
    )
    drawn = {name: three for name, three in compared.items() if all(map(is_share, three))}
    share = lambda one, group: Share(one.value, one.interval, group)
    titles = {"before": 0, "after": 1, "difference": 2}
    return {
        title: {name: share(getattr(three, title), i) for name, three in drawn.items()}
        for title, i in titles.items()
    }
