"""Prints what a run writes after a prompt."""

import pathlib

import jax
import ml_collections

from experiments import build, runs
from lm.errors import UserError
from lm.generate import sampling


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Samples from `checkpoint`; writes nothing, so `workdir` is not used."""
    del workdir
    if config.num_samples < 1:
        raise UserError(f"num_samples={config.num_samples} must be at least 1")
    prompts = _prompts(config)
    loaded = runs.load(pathlib.Path(config.checkpoint))
    if build.family_block(loaded.config.model).architecture != "decoder":
        raise UserError(f"checkpoint={config.checkpoint} is no decoder, and only decoders write")
    tokenizer = loaded.tokenizer
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    ids = [start + x.tolist() for x in tokenizer.encode_batch(prompts)]
    outputs = sampling.generate(
        loaded.model,
        loaded.params,
        [x for x in ids for _ in range(config.num_samples)],
        jax.random.key(config.seed),
        vocab_size=tokenizer.vocab_size,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        stop_ids=[] if tokenizer.eos_id is None else [tokenizer.eos_id],
    )
    for i, output in enumerate(outputs):
        prompt = prompts[i // config.num_samples]
        if len(outputs) > 1:
            print(f"--- prompt {i // config.num_samples + 1}, sample {i % config.num_samples + 1}")
        print(prompt + tokenizer.decode(output))
    return 0


def _prompts(config: ml_collections.ConfigDict) -> list[str]:
    if not config.checkpoint:
        raise UserError("checkpoint is not set; give a run's folder: --config.checkpoint=runs/NAME")
    if not config.prompts_file:
        return [config.prompt]
    try:
        text = pathlib.Path(config.prompts_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompts_file={config.prompts_file}: {error}") from None
    prompts = text.splitlines()
    if not prompts:
        raise UserError(f"prompts_file={config.prompts_file} is empty; write one prompt a line")
    return prompts
