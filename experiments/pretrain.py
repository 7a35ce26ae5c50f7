"""Pretraining: names the parts and wires them together. No maths lives here."""

import json
import pathlib
from collections.abc import Callable

import jax
import ml_collections

from experiments import build, initial, report
from experiments.objectives import Objective
from lm import workdir as workdir_lib
from lm.data.batches import Batches, evaluation_batches
from lm.data.preparation import Prepared
from lm.errors import UserError
from lm.generate import sampling
from lm.train import evaluation, flops, loop, metric_writers
from lm.train.checkpoints import Checkpoints, bytes_needed, check_disk_room
from lm.train.optimizers import evaluation_params
from lm.train.profiling import Profiler
from lm.train.progress import Progress
from lm.train.state import Params

STOPPED = 75  # EX_TEMPFAIL: a scheduler that sees it starts the same command again.


def run(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    profile_steps: tuple[int, int] | None = None,
) -> int:
    """Trains to the end of the config, going on from the newest checkpoint in `workdir`.

    Returns 0, or 75 when a signal ended it early, after saving.

    Raises:
      UserError: before anything is written, for whatever in the config cannot work.
    """
    given = config.to_dict()
    workdir_lib.check(workdir, given)
    config = build.with_num_steps(config)
    parts = build.make_parts(config)
    checkpoints = Checkpoints(workdir / "checkpoints", **_checkpoint_policy(config))
    prepared = build.make_data(config, parts.model.config)
    batches = Batches(prepared, "train", batch_size=config.data.batch_size, seed=config.seed)
    if profile_steps and not 1 <= profile_steps[0] <= profile_steps[1] <= config.train.num_steps:
        first, last = profile_steps
        raise UserError(
            f"--profile={first}:{last} are not steps of this run: 1 to {config.train.num_steps}"
        )
    objective = build.make_objective(config, prepared)
    abstract = build.abstract_state(parts)
    flops_per_token = build.flops_per_token(parts, objective, abstract, config.data.seq_len)
    if config.init_from:
        initial.check(config, abstract.params, prepared.tokenizer)
    metric_writers.check_wandb(config.log.wandb_project)
    check_disk_room(workdir, bytes_needed(abstract, keep_last=config.checkpoint.keep_last))
    num_steps = config.train.num_steps

    with (
        workdir_lib.opened(workdir, given, data_hash=prepared.hash),
        checkpoints,
        loop.stop_on_signals() as stop_requested,
    ):
        prepared.tokenizer.save(workdir / "tokenizer")
        report.start(config, parts, prepared, abstract, workdir)
        restored = checkpoints.restore(abstract)
        if restored is None:
            state, host = initial.state(parts, config, abstract), {"num_tokens": 0}
        else:
            step, state, host = restored
            print(f"continuing from step {step}", flush=True)
        first_step = int(state.step)
        with metric_writers.opened(
            workdir,
            step=first_step,
            num_steps=num_steps,
            config=given,
            wandb_project=config.log.wandb_project,
        ) as writers:
            progress = Progress(
                writers.scalars,
                lambda step, metrics: _record_skip(workdir, batches, step, metrics),
                every_steps=config.log.every_steps,
                num_steps=num_steps,
                max_skipped=config.train.max_skipped,
                num_tokens=host["num_tokens"],
                flops_per_token=flops_per_token,
                peak_flops=flops.total_peak_flops(jax.devices()),
                schedule=parts.schedule,
            )
            evaluate = make_evaluation(config, parts, objective, prepared)
            metrics = {}

            def evaluate_now(step, state):
                params = evaluation_params(state.params, state.opt_state)
                with progress.paused():
                    metrics[step] = evaluate(params)
                    writers.scalars(step, metrics[step])
                    if config.eval.sample_tokens:
                        writers.text(step, "sample", _sample(config, parts, prepared, params))

            def save(step, state):
                with progress.paused():
                    host = {"num_tokens": progress.num_tokens}
                    checkpoints.save(step, state, host, metrics.get(step, {}))

            step_fn = build.make_step(parts, objective, config, abstract)
            key = jax.random.key(config.seed)
            with Profiler(workdir / "profile", profile_steps) as profiler:
                state = loop.fit(
                    state,
                    lambda state, rows: step_fn(state, rows, key),
                    profiler.watch(batches.iterate(first_step, num_steps), first_step + 1),
                    num_steps=num_steps,
                    report=progress,
                    hooks=[
                        loop.Hook(config.eval.every_steps, evaluate_now),
                        loop.Hook(config.checkpoint.every_steps, save),
                    ],
                    stop_requested=stop_requested,
                )
            step = int(state.step)
            if step < num_steps and step not in checkpoints.steps():
                save(step, state)
        checkpoints.wait()
        if step < num_steps:
            print(f"stopped at step {step} and saved; the same command goes on", flush=True)
            return STOPPED
        report.end(config, prepared, workdir, checkpoints.metrics(num_steps))
    return 0


def make_evaluation(
    config: ml_collections.ConfigDict,
    parts: build.Parts,
    objective: Objective,
    prepared: Prepared,
) -> Callable[[Params], dict[str, float]]:
    """params -> metrics over the whole validation split."""
    eval_step = build.make_eval_step(parts.model, objective)
    num_bytes = None  # Only where each token is predicted do their bits add up to the text's.
    if config.objective.kind == "causal":
        num_bytes = prepared.splits["validation"].num_predicted_bytes

    def evaluate(params):
        batches = evaluation_batches(prepared, "validation", batch_size=config.eval.batch_size)
        return evaluation.evaluate(params, eval_step, batches, num_bytes=num_bytes)

    return evaluate


def _sample(config, parts: build.Parts, prepared: Prepared, params) -> str:
    """What the model writes by itself, from the start of a document."""
    tokenizer = prepared.tokenizer
    ends = (tokenizer.bos_id if config.data.add_bos else None, tokenizer.eos_id)
    start = next((i for i in ends if i is not None), 0)  # No such token: from any other.
    (tokens,) = sampling.generate(
        parts.model,
        params,
        [[start]],
        jax.random.key(config.seed),
        vocab_size=tokenizer.vocab_size,
        max_new_tokens=config.eval.sample_tokens,
        temperature=0.8,
        top_k=0,
        top_p=0.95,
        stop_ids=[] if tokenizer.eos_id is None else [tokenizer.eos_id],
    )
    return tokenizer.decode(tokens)


def _checkpoint_policy(config: ml_collections.ConfigDict) -> dict:
    policy = {k: v for k, v in config.checkpoint.items() if k != "every_steps"}
    save_every, eval_every = config.checkpoint.every_steps, config.eval.every_steps
    if policy["best_metric"] not in ("", *evaluation.METRICS):
        raise UserError(
            f"checkpoint.best_metric={policy['best_metric']!r} is unknown; choose "
            f"{', '.join(evaluation.METRICS)}, or '' for none"
        )
    if policy["best_metric"] and (not eval_every or save_every % eval_every):
        raise UserError(
            f"checkpoint.best_metric={policy['best_metric']} needs a metric at every save: make "
            f"checkpoint.every_steps={save_every} a multiple of eval.every_steps={eval_every}"
        )
    return policy


def _record_skip(workdir: pathlib.Path, batches: Batches, step: int, metrics: dict) -> None:
    """Notes the rows of a batch whose loss or gradient was not finite."""
    record = {"step": step, "rows": batches.rows_at(step - 1).tolist()} | {
        name: repr(metrics[name]) for name in ("loss", "grad_norm")
    }
    with (workdir / "skipped.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
