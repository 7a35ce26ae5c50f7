"""Prints what a run writes after a prompt, or as an answer to it."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import ml_collections
from flax import linen as nn

from experiments import build, finetuned, runs
from lm.data import tokenizers
from lm.errors import UserError
from lm.generate import beam, sampling
from lm.tasks import language
from lm.train import sharding
from lm.train.state import Params


class Writer(NamedTuple):
    """A run that writes.

    encode: a prompt's text -> what the model reads.
    goes_on: what it writes goes on from the prompt, and is shown behind it.
    """

    model: nn.Module
    params: Params
    tokenizer: tokenizers.Tokenizer
    encode: Callable[[str], list[int]]
    goes_on: bool


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Writes from `checkpoint`; `workdir` is not used, since nothing is kept."""
    del workdir
    if config.num_samples < 1:
        raise UserError(f"num_samples={config.num_samples} must be at least 1")
    if config.num_beams < 1:
        raise UserError(f"num_beams={config.num_beams} must be at least 1")
    if config.num_beams > 1 and config.num_samples > config.num_beams:
        raise UserError(
            f"num_samples={config.num_samples} is more than num_beams={config.num_beams} find"
        )
    prompts = _prompts(config)
    mesh = sharding.make_mesh(**config.parallel)
    writer = _writer(pathlib.Path(config.checkpoint))
    writer = writer._replace(params=sharding.place_params(writer.params, mesh))
    texts = _write(config, writer, [writer.encode(prompt) for prompt in prompts])
    for i, (prompt, written) in enumerate(zip(prompts, texts, strict=True), start=1):
        for j, text in enumerate(written, start=1):
            if len(prompts) * config.num_samples > 1:
                print(f"--- prompt {i}, sample {j}")
            print(prompt + text if writer.goes_on else text)
    return 0


def _write(
    config: ml_collections.ConfigDict, writer: Writer, ids: list[list[int]]
) -> list[list[str]]:
    """`num_samples` texts for each prompt; by beam search the best ones."""
    tokenizer = writer.tokenizer
    settings = dict(
        vocab_size=tokenizer.vocab_size,
        max_new_tokens=config.max_new_tokens,
        stop_ids=tokenizer.stop_ids,
        start_id=tokenizer.pad_id or 0,
    )
    if config.num_beams > 1:
        found = beam.search(
            writer.model,
            writer.params,
            ids,
            num_beams=config.num_beams,
            length_penalty=config.length_penalty,
            early_stopping=False,
            **settings,
        )
        return [[tokenizer.decode(h.tokens) for h in best[: config.num_samples]] for best in found]
    outputs = sampling.generate(
        writer.model,
        writer.params,
        [x for x in ids for _ in range(config.num_samples)],
        jax.random.key(config.seed),
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        **settings,
    )
    texts = [tokenizer.decode(output) for output in outputs]
    return [texts[i : i + config.num_samples] for i in range(0, len(texts), config.num_samples)]


def _writer(folder: pathlib.Path) -> Writer:
    if finetuned.is_task_model(folder):
        return _fine_tuned(folder)
    loaded = runs.load(folder)
    tokenizer = loaded.tokenizer
    architecture = build.family_block(loaded.config.model).architecture
    if architecture == "encoder":
        raise UserError(f"checkpoint={folder} is an encoder, which writes nothing")
    has_encoder = architecture == "encoder_decoder"
    start = [] if has_encoder or tokenizer.bos_id is None else [tokenizer.bos_id]
    end = [tokenizer.eos_id] if has_encoder and tokenizer.eos_id is not None else []
    encode = lambda text: start + tokenizer.encode_batch([text])[0].tolist() + end
    return Writer(loaded.model, loaded.params, tokenizer, encode, goes_on=not has_encoder)


def _fine_tuned(folder: pathlib.Path) -> Writer:
    """A run that was fine-tuned reads a prompt as it read its examples."""
    loaded = finetuned.load(folder)
    if not isinstance(loaded.task, language.Seq2Seq | language.Chat):
        raise UserError(
            f"checkpoint={folder} was trained for {loaded.config.task.kind}, and writes"
            " nothing; evaluate it instead"
        )
    encode = lambda text: loaded.task.prompt_ids(text).tolist()
    return Writer(loaded.model, loaded.params, loaded.tokenizer, encode, goes_on=False)


def _prompts(config: ml_collections.ConfigDict) -> list[str]:
    if not config.checkpoint:
        raise UserError("checkpoint is not set; give a run's folder: --config.checkpoint=runs/NAME")
    if not config.prompts_file:
        return [config.prompt]
    try:
        text = pathlib.Path(config.prompts_file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompts_file={config.prompts_file}: {error}") from None
    if not text:
        raise UserError(f"prompts_file={config.prompts_file} is empty; write one prompt a line")
    return text.removesuffix("\n").split("\n")  # Other line breaks of Unicode are text.
