"""Pretraining runs that differ in a few numbers alone, trained together as one program."""

import collections
import contextlib
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments import cli, pretrain, training
from experiments.estimates.memory import pretraining_bytes
from experiments.experiment import Experiment
from experiments.lifecycle import RunLifecycle
from experiments.sweeps.plan import PlannedRun
from experiments.sweeps.status_table import StatusTable
from experiments.wiring import (
    eval_corpora,
    eval_fairness,
    init_from,
    mixtures,
    pretraining,
    variants,
)
from lm.errors import UserError
from lm.loading.run_folder import has_tokenizer
from lm.objectives.batch import Objective
from lm.run.status import FAILED, mark, state_of
from lm.train import evaluation, loop, vmapped
from lm.train.language_model import make_eval_step, make_step
from lm.train.optimizers import SCALARS, evaluation_params
from lm.train.step import TrainState

# What the runs of one program may differ in: what no shape and no operation depends on.
FREE = ("seed", *(f"optimizer.{name}" for name in SCALARS))


def grouped(runs: Sequence[PlannedRun], max_members: int) -> list[list[PlannedRun]]:
    """Groups runs by program, in their order, at most `max_members` in each; 0 for no bound."""
    by_program: dict[str, list[PlannedRun]] = collections.defaultdict(list)
    for run in runs:
        values = cli.flat(run.config)
        # Whatever else differs would be another shape, or another operation, in one program.
        by_program[json.dumps({k: v for k, v in values.items() if k not in FREE})].append(run)
    size = max_members or len(runs)
    return [
        group[first : first + size]
        for group in by_program.values()
        for first in range(0, len(group), size)
    ]


def differing(runs: Sequence[PlannedRun]) -> list[str]:
    """Lists the keys of which the runs have several values."""
    every = [cli.flat(run.config) for run in runs]
    keys = dict.fromkeys(key for values in every for key in values)
    return [key for key in keys if any(v.get(key) != every[0].get(key) for v in every)]


class VmappedRun:
    """A run that is trained with others; what it says is appended to its own log."""

    def __init__(self, run: PlannedRun, log: pathlib.Path):
        self.run, self._log = run, log
        self.command = ("launch.py", *run.arguments)  # That of the same run alone.
        self.config, self._requested_config = pretrain.complete(run.config, run.workdir)
        metrics = eval_corpora.metrics_of(self.config.data, self.config.eval.corpora)
        metrics += eval_fairness.read(self.config.data, self.config.eval).metrics
        training.check(self.config, metrics, None)
        # Of one device, whatever `parallel.data` says: each device has whole runs.
        on_one_device = variants.changed(self.config, {"parallel.data": 1})
        self.parts = pretraining.make_parts(on_one_device, jax.local_devices()[:1])
        self.stack = contextlib.ExitStack()

    def open_log(self) -> None:
        """Opens the log, for `speaking`; `stack` closes it."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.stack.enter_context(self._log.open("a", buffering=1))  # Line-buffered.

    def start(self, experiment: Experiment) -> TrainState:
        """Takes the folder, and gives the state to go on from."""
        self.lifecycle, state = self.stack.enter_context(
            RunLifecycle(experiment, self._requested_config)
        )
        return state

    def speaking(self) -> contextlib.AbstractContextManager:
        """Sends what is printed inside to the member's log."""
        return contextlib.redirect_stdout(self._file)


class VmappedGroup:
    """Runs of one program; FOLDER/logs/NAME.log has what each says.

    Raises:
      UserError: what would stop one of the runs; nothing is written.
    """

    def __init__(self, runs: Sequence[PlannedRun], folder: pathlib.Path):
        self._members = [VmappedRun(run, folder / "logs" / f"{run.name}.log") for run in runs]
        first = self._members[0]
        config, parts = first.config, first.parts
        prepared = pretraining.make_data(config.data, config.tokenizer, config.model.vocab_size)
        abstract = pretraining.abstract_state(parts)
        if config.init_from:
            goes_on = all(has_tokenizer(run.workdir) for run in runs)
            tokenizer = None if goes_on else prepared.tokenizer
            init_from.check(config.init_from, parts.model, abstract.params, tokenizer)
        shard = (0, 1)  # All of a batch is read here.
        self._first = pretrain.Pretraining(
            config, first.run.workdir, parts, prepared, abstract, shard, command=first.command
        )
        self._mesh = vmapped.make_mesh(len(runs))  # Of runs, not of rows as `parts.mesh`.
        self._step_fn = _make_step(parts, self._first.objective, self._mesh)
        eval_step = make_eval_step(
            parts.model, self._first.objective, parts.mesh, config.loss.num_blocks
        )
        self._eval_step = vmapped.compile_evaluation(eval_step, self._mesh)
        self._active: list[VmappedRun] = []
        self._kinds: dict[str, str] = {}  # What became of those that are no more active.

    def describe(self) -> str:
        """Says how many runs these are, what they differ in and share, and their memory."""
        first, num = self._members[0], len(self._members)
        held = pretraining_bytes(
            first.config, first.parts, self._first.objective, self._first.abstract
        )
        each = sum(held.values()) / 1e6
        keys = ", ".join(differing([member.run for member in self._members])) or "nothing"
        rows = self._first.prepared.splits["train"].num_rows
        num_orders = len({member.config.seed for member in self._members})
        return (
            f"one program trains {num} runs that differ in {keys}; memory estimated at {num} x "
            f"{each:,.1f} = {num * each:,.1f} MB over {self._mesh.size} devices; shared: compiled "
            f"step and evaluation, {rows:,} rows in {num_orders} orders"
        )

    def train(self, board: StatusTable, stop_requested: Callable[[int], bool]) -> list[str]:
        """Trains all members to their ends; what became of each: done, stopped or failed."""
        self._board = board
        board.say(self.describe())
        by_step = collections.defaultdict(list)
        with contextlib.ExitStack() as stack:
            for member in self._members:
                stack.push(member.stack)  # Before it holds anything, so that an error closes it.
                self._active.append(member)
                board.started(member.run, f"this process, 1 of {len(self._members)}")
                member.open_log()
                experiment = self._first.of_run(
                    member.config, member.run.workdir, member.parts, member.command
                )
                state = self._attempt(member, member.start, experiment)
                if state is not None:
                    by_step[int(state.step)].append((member, state))
            if len(by_step) > 1:  # As after a kill while some were saved.
                board.say(f"the runs are at steps {', '.join(map(str, sorted(by_step)))}: in turn")
            for step in sorted(by_step):
                self._train_from(step, by_step.pop(step), stop_requested)  # Popped: donated there.
        return list(self._kinds.values())

    def _train_from(
        self,
        first_step: int,
        starts: list[tuple[VmappedRun, TrainState]],
        stop_requested: Callable[[int], bool],
    ) -> None:
        """Trains members that are at the same step."""
        for member, state in starts:
            if member.lifecycle.is_over():
                self._end(member, state)
        starts = [(member, state) for member, state in starts if member in self._active]
        if not starts:
            return
        trained, states = [member for member, _ in starts], [state for _, state in starts]
        config, num_steps = trained[0].config, trained[0].lifecycle.num_steps
        # The last member is repeated until the devices have equally many; no one reads its twins.
        stacked = vmapped.padded(trained, self._mesh)
        state = vmapped.stack(vmapped.padded(states, self._mesh), self._mesh)
        del starts, states  # Or the memory would hold every state twice.
        keys = jnp.stack([jax.random.key(member.config.seed) for member in stacked])
        scalars = {
            name: np.array([member.config.optimizer[name] for member in stacked], np.float32)
            for name in SCALARS
            if name in config.optimizer
        }
        bound = vmapped.place({"key": keys, "scalars": scalars}, self._mesh)
        batches = self._iterate(stacked, first_step, num_steps)
        for member in trained:
            batches = member.lifecycle.monitor.batches(batches)  # Each waits as long as all do.
        state = loop.fit(
            state,
            functools.partial(self._step_fn, **bound),
            (vmapped.place(batch, self._mesh) for batch in batches),
            num_steps=num_steps,
            report=lambda step, metrics: self._report(trained, step, metrics),
            hooks=[
                loop.Hook(
                    config.eval.every_steps,
                    lambda step, state: self._evaluate(trained, step, state),
                ),
                loop.Hook(
                    config.checkpoint.every_steps,
                    lambda step, state: self._in_turn(
                        trained, state, lambda i, own: trained[i].lifecycle.save(step, own)
                    ),
                ),
                loop.Hook(  # Last: a run that ends here has saved what was due.
                    config.eval.every_steps,
                    lambda step, state: self._end_those_over(trained, state),
                ),
            ],
            stop_requested=lambda step: (
                stop_requested(step) or not any(m in self._active for m in trained)
            ),
            say=self._board.say,
        )
        for i, member in enumerate(trained):
            if member in self._active:
                self._end(member, self._pick(state, i))

    def _iterate(self, stacked: list[VmappedRun], first_step: int, end_step: int) -> Iterator:
        config = stacked[0].config
        sizes = dict(batch_size=config.data.batch_size, num_steps=config.train.num_steps)
        make = functools.partial(mixtures.make_batches, self._first.prepared, **sizes)
        seeds = {member.config.seed for member in stacked}  # Members of one seed share its rows.
        by_seed = {seed: make(seed=seed).iterate(first_step, end_step) for seed in seeds}
        return vmapped.stacked_batches([by_seed[member.config.seed] for member in stacked])

    def _report(self, trained: list[VmappedRun], step: int, metrics: dict[str, np.ndarray]) -> None:
        for i, member in enumerate(trained):
            if member in self._active:
                own = {name: values[i] for name, values in metrics.items()}
                self._attempt(member, member.lifecycle.report, step, own)
        if step % trained[0].config.log.every_steps == 0:
            self._board.read()

    def _evaluate(self, trained: list[VmappedRun], step: int, state: TrainState) -> None:
        """Evaluates all members at once; then each logs its own."""
        config = trained[0].config
        all_params = evaluation_params(state.params, state.opt_state)
        of_corpus = lambda corpus: evaluation.evaluate_members(
            all_params,
            self._eval_step,
            pretrain.validation_batches(corpus, config.eval.batch_size, (0, 1)),
            num_bytes=pretrain.predicted_bytes(config.objective.kind, corpus),
        )
        with self._paused():
            all_own = of_corpus(self._first.prepared)
            others = {name: of_corpus(corpus) for name, corpus in self._first.corpora.items()}
        metrics = [
            evaluation.beside(own, {name: of_all[i] for name, of_all in others.items()})
            for i, own in enumerate(all_own)
        ]

        def take(i: int, own: TrainState) -> None:
            params = evaluation_params(own.params, own.opt_state)
            found = metrics[i] | self._first.measure_bias(params)
            trained[i].lifecycle.take_evaluation(step, params, found)

        self._in_turn(trained, state, take)

    def _in_turn(
        self, trained: list[VmappedRun], state: TrainState, act: Callable[[int, TrainState], None]
    ) -> None:
        """Has each member do this with its state; the clocks of all stand still meanwhile."""
        for i, member in enumerate(trained):
            if member in self._active:
                with self._paused():
                    own = self._pick(state, i)
                with self._paused(but=member):  # It pauses by itself.
                    self._attempt(member, act, i, own)

    @contextlib.contextmanager
    def _paused(self, but: VmappedRun | None = None) -> Iterator[None]:
        """Stops the clocks that tell tokens a second, those of all members but this one."""
        with contextlib.ExitStack() as paused:
            for member in self._active:
                if member is not but:
                    paused.enter_context(member.lifecycle.progress.paused())
            yield

    def _end_those_over(self, trained: list[VmappedRun], state: TrainState) -> None:
        """Ends members that get no better, as they would alone; the others go on."""
        for i, member in enumerate(trained):
            if member in self._active and member.lifecycle.is_over():
                self._end(member, self._pick(state, i))

    def _end(self, member: VmappedRun, state: TrainState) -> None:
        code = self._attempt(member, member.lifecycle.end, state)
        if code is not None:
            self._leave(member, "done" if code == 0 else "stopped", f"step {int(state.step)}")

    def _pick(self, states: TrainState, i: int) -> TrainState:
        return vmapped.pick(states, i, self._first.abstract)

    def _attempt(self, member: VmappedRun, act: Callable, *args):
        """Returns what `act` does; None where the member failed, which the others survive."""
        try:
            with member.speaking():
                return act(*args)
        except UserError as error:
            self._leave(member, "failed", str(error))

    def _leave(self, member: VmappedRun, kind: str, why: str) -> None:
        self._active.remove(member)
        self._kinds[member.run.name] = kind
        member.stack.close()
        # The lifecycle marks what fails while it opens; a folder that runs is another process's.
        if kind == "failed" and state_of(member.run.workdir).kind not in ("failed", "running"):
            mark(member.run.workdir, FAILED)
        self._board.ended(member.run, kind, why)


def _make_step(parts: pretraining.PretrainingParts, objective: Objective, mesh: Mesh) -> Callable:
    """(states, rows, keys, scalars) -> (states, metrics), all stacked; the states are donated."""

    def step(state, rows, key, scalars):
        tx, _ = parts.make_optimizer(**scalars)  # Rates are traced here, and not constants.
        one = make_step(parts.loss_fn, objective, tx, accumulate_steps=parts.accumulate_steps)
        return one(state, rows, key)

    return vmapped.compile_step(step, mesh)
