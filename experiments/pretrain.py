"""Pretraining: names the parts and wires them together. No maths lives here."""

import copy
import functools
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections

from experiments import report, training
from experiments.wiring import eval_corpora, eval_fairness, init_from, mixtures, pretraining
from experiments.wiring.variants import with_num_steps
from lm.corpus import split_counts
from lm.corpus.batches import Corpus, evaluation_batches
from lm.corpus.rows import Rows
from lm.data.render import spelled
from lm.errors import UserError
from lm.generation import sampling
from lm.loading.run_folder import has_tokenizer, save_tokenizer
from lm.models.parameters import Params
from lm.objectives.batch import Objective
from lm.parallel import hosts
from lm.parallel.batches import place_batch
from lm.parallel.mesh import process_shard
from lm.run import workdir as workdir_lib
from lm.train import evaluation
from lm.train.checkpoints import Checkpoints
from lm.train.language_model import make_eval_step
from lm.train.step import StepFn, TrainState


def run(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    profile_steps: tuple[int, int] | None = None,
    extend: bool = False,
) -> int:
    """Trains to the end of the config, going on from the newest checkpoint in `workdir`.

    With `extend` the run there may be shorter than the config. Returns 0, or 75 when a signal ended
    it early, after saving.

    Raises:
      UserError: before anything is written, for whatever in the config cannot work.
    """
    print("reading data", flush=True)
    with hosts.together():  # Where one process fails all of them end, and none waits for it.
        config, requested_config = complete(config, workdir, extend)
        parts = pretraining.make_parts(config)
        abstract, shard = pretraining.abstract_state(parts), process_shard(parts.mesh)
        metrics = eval_corpora.metrics_of(config.data, config.eval.corpora)
        metrics += eval_fairness.read(config.data, config.eval).metrics
        training.check(config, metrics, profile_steps)
        # Only now, since a corpus may take hours to prepare.
        prepared = pretraining.make_data(config.data, config.tokenizer, config.model.vocab_size)
        experiment = Pretraining(
            config, workdir, parts, prepared, abstract, shard, command=sys.argv, extend=extend
        )
        if config.init_from:  # Its shapes and ids; parameters are read once the workdir is ours.
            goes_on = has_tokenizer(workdir)  # Its own was compared when it began.
            tokenizer = None if goes_on else prepared.tokenizer
            init_from.check(config.init_from, parts.model, abstract.params, tokenizer)
    return training.train(
        experiment, requested_config=requested_config, profile_steps=profile_steps
    )


def complete(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, extend: bool = False
) -> tuple[ml_collections.ConfigDict, dict[str, Any]]:
    """Returns the config with model, tokenizer and number of steps, and as its workdir holds it.

    Raises:
      UserError: what does not go together, or a workdir of another run.
    """
    if extend and "sources" in config.data:  # Else rows that were seen would be taken for unseen.
        raise UserError(
            "--extend: stages and sources are spread over all steps of a run, so that a longer one "
            f"has other batches from the start; begin anew with --config.init_from={workdir} in "
            "another --workdir"
        )
    config = init_from.with_model(config)
    requested_config = config.to_dict()
    workdir_lib.check(workdir, requested_config, extend=extend)
    config.tokenizer = init_from.own_tokenizer(config.tokenizer, workdir)
    return with_num_steps(config), requested_config


class Pretraining:
    """A run of pretraining; see `experiment.Experiment`.

    Raises UserError where there is less data than one batch, or no metric of the best checkpoint.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: pathlib.Path,
        parts: pretraining.PretrainingParts,
        prepared: Corpus,
        abstract: TrainState,
        shard: tuple[int, int],
        *,
        command: Sequence[str],
        extend: bool = False,
    ):
        self.prepared, self.abstract, self.shard, self.extend = prepared, abstract, shard, extend
        self.objective = pretraining.make_objective(config.objective, parts.model, prepared)
        self.corpora = eval_corpora.prepare(
            config.eval.corpora, config.data, prepared.tokenizer_block
        )
        read = prepared.corpora | {"": prepared} | self.corpora
        reasons = {name: no_bits_per_byte(config.objective.kind, c) for name, c in read.items()}
        averaged = self.corpora or prepared.corpora
        eval_corpora.check_best_metric(config.checkpoint.best_metric, reasons, averaged)
        measured_with = eval_fairness.read(config.data, config.eval)
        hashes = [prepared.hash, *(c.hash for c in self.corpora.values()), *measured_with.hashes]
        self.data_hash = "+".join(hashes)
        self.flops_per_token = pretraining.flops_per_token(
            parts, self.objective, abstract, config.data.seq_len
        )
        self._make_state = init_from.make_state(config.init_from, parts, abstract)
        self._evaluate = make_evaluation(
            parts,
            self.objective,
            prepared,
            batch_size=config.eval.batch_size,
            num_blocks=config.loss.num_blocks,
            num_bytes=predicted_bytes(config.objective.kind, prepared),
            corpora={
                name: (c, predicted_bytes(config.objective.kind, c))
                for name, c in self.corpora.items()
            },
        )
        self.measure_bias = measured_with.by(config.to_dict(), workdir, parts, prepared.tokenizer)
        # Cached, for runs that are trained together share it, and xz reads all of a split.
        self._compressors = functools.cache(lambda: report.compressor_bits_per_byte(config.data))
        self.config, self.workdir, self.parts, self.command = config, workdir, parts, command
        self._set_run()

    def of_run(
        self,
        config: ml_collections.ConfigDict,
        workdir: pathlib.Path,
        parts: pretraining.PretrainingParts,
        command: Sequence[str],
    ) -> "Pretraining":
        """The same of a run with another seed or other rates; the two share what they compile."""
        other = copy.copy(self)  # Shallow: the data, the objective and what is compiled are one.
        other.config, other.workdir, other.parts, other.command = config, workdir, parts, command
        other._set_run()
        return other

    def _set_run(self) -> None:
        """Sets what follows from the rates and the seed, in which runs of one program differ."""
        batch_size, seed = self.config.data.batch_size, self.config.seed
        self.schedule, self.kept = self.parts.schedule, {"data.batch_size": batch_size}
        num_steps = self.config.train.num_steps
        self.batches = mixtures.make_batches(
            self.prepared, batch_size=batch_size, seed=seed, num_steps=num_steps
        )

    def save_tokenizer(self, folder: pathlib.Path) -> None:
        save_tokenizer(self.prepared.tokenizer, self.config.init_from, folder)

    def describe(self) -> None:
        report.start(self.config, self.parts, self.prepared, self.abstract, self.workdir)
        report.eval_corpora(self.corpora)
        if self.batches.mixture:
            report.mixture(self.prepared, self.batches.mixture)

    def progress(self, step: int) -> dict[str, float]:
        """Says what was seen of each source of a mixture; nothing where there is none."""
        since = max(0, step - self.config.log.every_steps)
        return {f"train/{key}": x for key, x in self.batches.drawn(step, since).items()}

    def first_state(self) -> TrainState:
        init_from.announce(self.config.init_from)
        return self._make_state(self.config.seed)

    def compiled_step(self) -> tuple[StepFn, Callable[[Rows], Any]]:
        step, place = pretraining.make_step(self.parts, self.objective, self.abstract)
        # One key for all steps: each folds its number in, so that no checkpoint need hold it.
        return functools.partial(step, key=jax.random.key(self.config.seed)), place

    def evaluate(self, step: int, params: Params) -> dict[str, float]:
        return self._evaluate(params) | self.measure_bias(params)

    def sample(self, params: Params) -> str | None:
        """Returns what the model writes by itself, from the start of a document."""
        if not self.config.eval.sample_tokens:
            return None
        tokenizer = self.prepared.tokenizer
        ends = (tokenizer.bos_id if self.config.data.add_bos else None, tokenizer.eos_id)
        start = next((i for i in ends if i is not None), 0)  # No such token: from any other.
        (tokens,) = sampling.generate(
            self.parts.model,
            params,
            [[start]],
            jax.random.key(self.config.seed),
            vocab_size=tokenizer.vocab_size,
            max_new_tokens=self.config.eval.sample_tokens,
            temperature=0.8,
            top_k=0,  # Draws among all tokens.
            top_p=0.95,
            stop_ids=tokenizer.stop_ids,
        )
        return spelled(tokens, tokenizer)

    def finish(self, checkpoints: Checkpoints, state: TrainState) -> None:
        report.end(
            self.workdir,
            checkpoints.metrics(int(state.step)),
            self.command,
            model_name=self.config.model.name,
            compressors=self._compressors if self.config.eval.compressors else None,
            no_bits_per_byte=no_bits_per_byte(self.config.objective.kind, self.prepared),
        )


def make_evaluation(
    parts: pretraining.PretrainingParts,
    objective: Objective,
    prepared: Corpus,
    *,
    batch_size: int,
    num_blocks: int,
    num_bytes: Mapping[str, int | None],
    corpora: Mapping[str, tuple[Corpus, Mapping[str, int | None]]] | None = None,
) -> Callable[[Params], dict[str, float]]:
    """params -> metrics over the whole validation split; see `predicted_bytes` for `num_bytes`.

    Of a mixture, over those of its sources, together and each by its name; and of other corpora.
    """
    eval_step = make_eval_step(parts.model, objective, parts.mesh, num_blocks)
    shard = process_shard(parts.mesh)
    place = lambda rows: place_batch(rows, parts.mesh)

    def of_corpus(params, corpus, num_bytes):
        batches = validation_batches(corpus, batch_size, shard).items()
        placed = {name: map(place, of_one) for name, of_one in batches}
        return evaluation.evaluate_sources(params, eval_step, placed, num_bytes=num_bytes)

    def evaluate(params):
        others = {name: of_corpus(params, *corpus) for name, corpus in (corpora or {}).items()}
        return evaluation.beside(of_corpus(params, prepared, num_bytes), others)

    return evaluate


def validation_batches(
    prepared: Corpus, batch_size: int, shard: tuple[int, int]
) -> dict[str, Iterator[Rows]]:
    """Reads the validation split of each of the corpora, which is one, without a name, or several.

    `shard` is the index of one of each batch, of how many.
    """
    index, num_shards = shard
    sizes = dict(batch_size=batch_size, shard=index, num_shards=num_shards)
    return {
        name: evaluation_batches(corpus, "validation", **sizes)
        for name, corpus in prepared.corpora.items()
    }


def predicted_bytes(objective_kind: str, prepared: Corpus) -> dict[str, int | None]:
    """Returns the bytes of each of the corpora's validation text.

    None where `no_bits_per_byte` says why not.
    """
    return {
        name: None
        if no_bits_per_byte(objective_kind, corpus)
        else corpus.splits["validation"].num_predicted_bytes
        for name, corpus in prepared.corpora.items()
    }


def no_bits_per_byte(objective_kind: str, prepared: Corpus) -> str:
    """Says why an evaluation gives no bits per byte; "" where it does."""
    if objective_kind != "causal":
        return f"objective.kind={objective_kind} does not predict each token of a text"
    return split_counts.no_bits_per_byte(prepared.splits["validation"])
