"""Trains one family on several meshes of eight simulated devices, and prints what came out.

A process of its own, since the number of devices is chosen when JAX starts:
`python -m tests.meshes gpt2 FOLDER` prints JSON, the losses of eight steps by mesh; those named
"a -> b" are from step 4 on those of a checkpoint of mesh a that went on on mesh b.
"""

import json
import os
import pathlib
import sys

import jax

from configs import families
from experiments.wiring import init_from, pretraining
from lm.corpus.batches import Batches
from lm.train.checkpoints import Checkpoints

MESHES = {
    "one device": {},
    "data 8": dict(data=8),
    "fsdp 8": dict(data=1, fsdp=8),
    "tensor 4 x data 2": dict(data=2, tensor=4),
    "fsdp 4 x tensor 2": dict(data=1, fsdp=4, tensor=2),
    "data 2 x fsdp 2 x sequence 2": dict(data=2, fsdp=2, sequence=2),
    "pmap": dict(strategy="pmap", data=8),
}
NUM_STEPS, SAVED = 8, 4


def make_config(family: str, corpus: dict[str, str]):
    """A tiny model whose rows hold several documents each, with micro-batches."""
    config = families.get_config(f"family={family},optimizer=adamw")
    # One shows what layers mix; the others, by one layer, what is a family's own.
    num_layers = 2 if family == "gpt2" else 1
    config.model.update(num_layers=num_layers, num_heads=4, head_dim=8, model_dim=32, mlp_dim=64)
    if "num_kv_heads" in config.model:
        config.model.num_kv_heads = 4
    config.model.vocab_size = config.tokenizer.vocab_size = 512
    config.data.update(corpus, source="text", seq_len=128, batch_size=16)
    config.train.update(num_steps=NUM_STEPS, num_epochs=0.0, accumulate_steps=2)
    # Where larger steps make the loss jump about, they also magnify the last bits.
    config.optimizer.update(warmup_steps=2, peak_lr=1e-3)
    return config


class Run:
    """One family on one mesh."""

    def __init__(self, family: str, corpus: dict[str, str], mesh: str):
        self._config = make_config(family, corpus)
        self._config.parallel.update(MESHES[mesh])
        devices = jax.devices()[:1] if mesh == "one device" else None
        self._parts = pretraining.make_parts(self._config, devices)
        data, tokenizer = self._config.data, self._config.tokenizer
        prepared = pretraining.make_data(data, tokenizer, self._config.model.vocab_size)
        model = self._parts.model
        objective = pretraining.make_objective(self._config.objective, model, prepared)
        self._abstract = pretraining.abstract_state(self._parts)
        self._step_fn, self._place = pretraining.make_step(self._parts, objective, self._abstract)
        batch_size = self._config.data.batch_size
        self._batches = Batches(prepared, "train", batch_size=batch_size, seed=0)

    def losses(self, folder: pathlib.Path) -> list[float]:
        """Of all steps; a checkpoint goes to `folder` halfway."""
        state = init_from.make_state("", self._parts, self._abstract)(self._config.seed)
        state, first = self._train(state, range(SAVED))
        with Checkpoints(folder, keep_last=1) as checkpoints:
            checkpoints.save(SAVED, state, {}, {})
        return first + self._train(state, range(SAVED, NUM_STEPS))[1]

    def losses_from(self, folder: pathlib.Path) -> list[float]:
        """Of the second half, going on from the checkpoint of another mesh."""
        with Checkpoints(folder, keep_last=1) as checkpoints:
            _, state, _ = checkpoints.restore(self._abstract)
        return self._train(state, range(SAVED, NUM_STEPS))[1]

    def _train(self, state, steps):
        found = []
        for step in steps:
            batch = self._place(self._batches.batch_at(step))
            state, metrics = self._step_fn(state, batch, key=jax.random.key(0))
            found.append(float(metrics["loss"]))
        return state, found


def main(family: str, folder: pathlib.Path, corpus: dict[str, str]) -> None:
    """Prints the losses of every mesh, and of every mesh from the checkpoint of the one before."""
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if "LM_CACHE" in os.environ:
        jax.config.update("jax_compilation_cache_dir", f"{os.environ['LM_CACHE']}/xla")
    runs = {mesh: Run(family, corpus, mesh) for mesh in MESHES}
    losses = {mesh: run.losses(folder / mesh) for mesh, run in runs.items()}
    names = list(MESHES)
    for before, after in zip(names, names[1:] + names[:1], strict=True):
        rest = runs[after].losses_from(folder / before)
        losses[f"{before} -> {after}"] = losses[before][:SAVED] + rest
    print(json.dumps(losses))


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]), json.loads(sys.argv[3]))
