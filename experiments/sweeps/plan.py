"""From a sweep to planned runs, each resolved and named by its config, and to what starts them."""

import dataclasses
import hashlib
import importlib.util
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ml_collections

from experiments import cli
from experiments.wiring.number_ranges import check_numbers
from lm.errors import UserError
from lm.run import workdir as workdir_lib

Overrides = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep, or the only one where there is none."""

    name: str  # 10 hex digits, a hash of the resolved config.
    workdir: pathlib.Path  # FOLDER/name, or --workdir itself where there is no sweep.
    overrides: Overrides  # What differs from the base; may hold "arg".
    config: ml_collections.ConfigDict  # Locked, just as a process with `arguments` resolves it.
    arguments: tuple[str, ...]  # Of launch.py.


@dataclasses.dataclass(frozen=True)
class Base:
    """What a sweep starts from: --config=FILENAME and the --config.KEY=VALUE beside it."""

    filename: str
    changes: Mapping[str, Any]


def read(path: str) -> list[Overrides] | dict[str, Any]:
    """Reads what `sweep()` of a file returns: overrides, or the settings of a search.

    Raises:
      UserError: the file, its function or what that returns cannot be used.
    """
    if not pathlib.Path(path).is_file():
        raise UserError(f"--sweep={path}: there is no such file; see docs/sweeps.md")
    spec = importlib.util.spec_from_file_location("sweep_file", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--sweep={path} is not a Python file; see docs/sweeps.md")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        sweep = getattr(module, "sweep", None)
        found = None if sweep is None else sweep()
        found = found if found is None or isinstance(found, dict) else list(found)
    except (Exception, SystemExit) as error:  # Whatever is wrong in a user's file.
        raise UserError(f"--sweep={path}: {type(error).__name__}: {error}") from error
    if sweep is None:
        raise UserError(f"--sweep={path} has no function sweep(); add one, see docs/sweeps.md")
    if isinstance(found, dict) and "space" in found:
        return found
    # A dict without "space" is most likely one override, forgotten to be put into a list.
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise UserError(f"--sweep={path}: sweep() must return a list of dicts, or search(...)")
    if not found:
        raise UserError(f"--sweep={path}: sweep() returns no run")
    return found


# Keys that configs did not always have, each at the value that does what was done without it. They
# are left out of names, so that a sweep of an older version goes on in its folders.
SINCE = workdir_lib.ADDED | {
    "data.max_document_bytes": 10**9,
    "data.engine.runner": "",
    "data.engine.options": [],  # As `cli.flat` has a tuple.
    "task.date": "",
}


def make_planner(base: Base, folder: pathlib.Path) -> Callable[[Overrides], PlannedRun]:
    """overrides -> the run that they stand for; it raises UserError where there is none."""
    base_config = cli.resolve(cli.of_config(base.filename, base.changes))
    check_numbers(base_config.to_dict())
    _check_experiment(base_config.experiment)
    base_values = cli.flat(base_config)

    def plan_one(overrides: Overrides) -> PlannedRun:
        overrides = {key: _plain(value) for key, value in overrides.items()}
        _check_set_once(base, overrides)  # Or the command line would silently lose.
        filename, keys = base.filename, dict(overrides)
        if "arg" in keys:
            filename += ("," if ":" in filename else ":") + str(keys.pop("arg"))
        given = cli.of_config(filename, {**base.changes, **keys})
        try:
            config = cli.resolve(given)
            check_numbers(config.to_dict())
        except UserError as error:
            raise UserError(f"sweep() yields {shown(overrides)}: {error}") from None
        _check_experiment(config.experiment)
        values = cli.flat(config)
        for key, value in keys.items():
            _check_same(key, value, values)
        # With an argument of the file, a key at the base's value may set back what that changed.
        if "arg" not in overrides:
            same = {k for k in keys if k in base_values and values[k] == base_values[k]}
            overrides = {k: v for k, v in overrides.items() if k not in same}
        named = {k: v for k, v in values.items() if k not in SINCE or v != SINCE[k]}
        # Of all values, not of the overrides: one run has one name, however it is said.
        name = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:10]
        workdir = folder / name
        return PlannedRun(name, workdir, overrides, config, (*given, f"--workdir={workdir}"))

    return plan_one


def plan(base: Base, overrides: Iterable[Overrides], folder: pathlib.Path) -> list[PlannedRun]:
    """Plans the runs of a sweep, in its order.

    Raises:
      UserError: an override cannot be followed, or two stand for the same run.
    """
    plan_one = make_planner(base, folder)
    runs: dict[str, tuple[PlannedRun, Overrides]] = {}
    for one in overrides:
        run = plan_one(one)
        if run.name in runs:
            raise UserError(
                f"sweep() yields one run twice: {shown(runs[run.name][1])} and {shown(one)} give "
                "the same config; leave out one of them"
            )
        runs[run.name] = run, one
    return [run for run, _ in runs.values()]


def plan_alone(base: Base, workdir: pathlib.Path) -> PlannedRun:
    """Plans the run of a command line without a sweep."""
    run = make_planner(base, workdir.parent)({})
    return dataclasses.replace(
        run, workdir=workdir, arguments=(*run.arguments[:-1], f"--workdir={workdir}")
    )


def counted(counts: Mapping[str, int]) -> str:
    """{"done": 2, "dead": 1} -> "2 done, 1 dead"."""
    return ", ".join(f"{num} {kind}" for kind, num in counts.items() if num)


def shown(overrides: Overrides) -> str:
    """{"seed": 1, "arg": "debug"} -> "seed=1 arg=debug"."""
    return " ".join(f"{key}={value}" for key, value in overrides.items()) or "no change"


def _plain(value: Any) -> Any:
    """Returns a number of NumPy's as Python's own, and anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () else value


def plain_parts(distribution: Any) -> Any:
    is_known = isinstance(distribution, list | tuple)
    return type(distribution)(map(_plain, distribution)) if is_known else distribution


def _check_experiment(experiment: str) -> None:
    if experiment not in ("pretrain", "finetune"):
        raise UserError(f"--sweep and --launcher are about training, and experiment={experiment!r}")


def _check_set_once(base: Base, overrides: Overrides) -> None:
    """Raises UserError for a key or argument that both the command line and the sweep set."""
    for key in overrides:
        for other in base.changes:
            if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                raise UserError(
                    f"--config.{other} is on the command line and in sweep(), which sets {key}; "
                    "leave out one of them"
                )
    names = lambda arg: {part.partition("=")[0] for part in arg.split(",")}
    given = base.filename.partition(":")[2]
    if twice := names(given) & names(str(overrides.get("arg", ""))) - {""}:
        raise UserError(
            f"--config={base.filename} and sweep() both set the argument {min(twice)}; leave out "
            "one of them"
        )


def _check_same(key: str, value: Any, values: dict[str, Any]) -> None:
    """Raises UserError where a value is of another type than its key, and so was changed by it."""
    try:  # By JSON, as `cli.flat` has the values of a config: its tuples are lists there.
        written = json.loads(json.dumps(value))
    except TypeError:
        raise UserError(f"sweep() yields {key}={value!r}, which is no value of a config") from None
    if key not in values:
        raise UserError(f"sweep() yields {key}={value!r}, and {key} is a block; set its own keys")
    if values[key] != written:
        raise UserError(
            f"sweep() yields {key}={value!r}, and the config reads it as {values[key]!r}; give it "
            "the type of its key"
        )
