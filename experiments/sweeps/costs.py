"""Estimates what the runs of a sweep would cost, from shapes alone."""

import collections
import dataclasses
import json
import math
import statistics
from collections.abc import Sequence

import ml_collections
import rich.console
import rich.table

from experiments import cli, finetune
from experiments.sweeps.plan import PlannedRun, counted, shown
from experiments.wiring import init_from, objectives, pretraining, variants
from lm.models import parameters as parameters_lib
from lm.run.status import State, read_records, state_of

# What changes neither a shape nor the length: one look serves all runs that differ in these alone.
_FREE = ("seed", "optimizer.", "eval.", "checkpoint.", "log.", "loss.")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one run costs."""

    num_params: int
    flops_per_token: float
    num_tokens: int  # Of all its steps, as many as its rows can hold.

    @property
    def flops(self) -> float:
        return self.flops_per_token * self.num_tokens


@dataclasses.dataclass(frozen=True)
class Row:
    """A run with how far it is, and what is left of its cost."""

    run: PlannedRun
    state: State
    cost: Cost
    flops: float
    hours: float | None  # None where no run has told its pace.


def show(runs: Sequence[PlannedRun]) -> None:
    """Prints the runs of a sweep: differences, states, costs, and what is left altogether.

    Raises:
      UserError: whatever would stop one of them before its data is read.
    """
    rows = make_rows(runs)
    table = rich.table.Table("run", "differs in", "state", "parameters", "FLOPs left", "hours left")
    for column in table.columns[3:]:
        column.justify = "right"
    for row in rows:
        numbers = f"{row.cost.num_params:,}", f"{row.flops:.3g}", _hours(row.hours)
        table.add_row(row.run.name, shown(row.run.overrides), _state(row.state), *numbers)
    console = rich.console.Console()
    if not console.is_terminal:  # Rich would cut it to 80 columns.
        console.width = 120
    console.print(table)
    print(total(rows))


def show_trial(run: PlannedRun, num_trials: int) -> None:
    """Prints what a trial of a search costs, and all of them if none were pruned."""
    cost = cost_of(run.config)
    print(
        f"a trial of the config as it is: {cost.num_params:,} parameters, {cost.flops:.3g} FLOPs; "
        f"{num_trials} of them, none pruned: {num_trials * cost.flops:.3g} FLOPs"
    )


def make_rows(runs: Sequence[PlannedRun]) -> list[Row]:
    """Makes a row for each run, with hours by the pace of the finished run most like it."""
    known: dict[str, Cost] = {}
    costs, states, paces = [], [], {}
    for run in runs:
        values = cli.flat(run.config)
        key = json.dumps([(k, v) for k, v in values.items() if not k.startswith(_FREE)])
        if key not in known:
            known[key] = cost_of(run.config)
        costs.append(known[key])
        states.append(state_of(run.workdir))
        pace = _tokens_per_second(run) if states[-1].kind == "done" else None
        if pace is not None:
            paces[known[key].flops_per_token] = pace
    # After the loop, since a run may be like one that stands behind it.
    return [_row(*one, paces) for one in zip(runs, states, costs, strict=True)]


def total(rows: Sequence[Row]) -> str:
    """Says how many runs there are by state, and what is left, as if one after the other."""
    counts = collections.Counter(row.state.kind for row in rows)
    hours = [row.hours for row in rows]
    known = "" if None in hours else f", {_hours(sum(hours))} hours one after the other"
    flops = sum(row.flops for row in rows)
    return f"{len(rows)} runs: {counted(counts)}; {flops:.3g} FLOPs left{known}"


def cost_of(config: ml_collections.ConfigDict) -> Cost:
    """Counts the cost of a training; reads data for fine-tuning, and where epochs are counted.

    Raises:
      UserError: for whatever in the config cannot work on one device.
    """
    if config.experiment == "finetune":
        config, data = finetune.read(config)
        config = variants.with_num_steps(config, len(data.train.examples))
        parts = finetune.make_parts(config, data)
        flops = finetune.flops_per_token(parts.model, parts.params, config.data.seq_len)
        params, num_seeds = parts.params, config.num_seeds
    else:
        config = variants.for_one_device(init_from.with_model(config))
        config = variants.with_num_steps(config)
        parts = pretraining.make_parts(config, devices=1)
        abstract = pretraining.abstract_state(parts)
        # The real one would need the tokenizer, and so the corpus that it is trained on.
        objective = objectives.abstract_objective(
            config.objective, parts.model, config.data.seq_len
        )
        flops = pretraining.flops_per_token(parts, objective, abstract, config.data.seq_len)
        params, num_seeds = abstract.params, 1
    num_tokens = num_seeds * config.train.num_steps * config.data.batch_size * config.data.seq_len
    return Cost(parameters_lib.num_params(params), flops, num_tokens)


def _tokens_per_second(run: PlannedRun) -> float | None:
    records, _ = read_records(run.workdir)
    paces = [p for r in records if (p := r.get("train/tokens_per_second")) is not None]
    # A mean would follow the first ones, in which steps are compiled.
    return statistics.median(paces) if paces else None


def _row(run: PlannedRun, state: State, cost: Cost, paces: dict[float, float]) -> Row:
    flops = cost.flops * _share_left(state)
    if not flops or not paces:
        return Row(run, state, cost, flops, None if flops else 0.0)
    # A step costs about as many seconds a FLOP as that of the model nearest in size.
    like = min(paces, key=lambda other: abs(math.log(other / cost.flops_per_token)))
    return Row(run, state, cost, flops, flops / (paces[like] * like) / 3600)


def _share_left(state: State) -> float:
    if state.kind == "done":
        return 0.0
    return 1 - state.step / state.num_steps if state.num_steps else 1.0


def _state(state: State) -> str:
    if state.kind in ("done", "waiting"):
        return state.kind
    return f"{state.kind} at step {state.step} of {state.num_steps or '?'}"


def _hours(hours: float | None) -> str:
    return "?" if hours is None else f"{hours:.2g}"
