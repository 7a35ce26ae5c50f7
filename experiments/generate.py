"""Writes what a run writes after prompts, or as answers to them."""

import functools
import pathlib
import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import ml_collections
from flax import linen as nn

from experiments import prompts, report
from experiments.prompts import Prompt
from experiments.wiring.number_ranges import check_output
from experiments.wiring.run_folder import folder_of
from lm.chat import chat_template, conversations
from lm.errors import UserError
from lm.generation import beam, ending, prompting, sampling
from lm.generation.ending import Written
from lm.loading import run as run_lib
from lm.loading import task_model
from lm.models.factory import family_named
from lm.models.parameters import Params
from lm.parallel.mesh import make_mesh
from lm.parallel.param_rules import place_params
from lm.settings import choose
from lm.system import atomic_files
from lm.tasks import language
from lm.tokenizers import tokenizers


class Writer(NamedTuple):
    """A run that writes.

    encode: a prompt -> what the model reads.
    stops: what ends what it writes.
    goes_on: what it writes goes on from the prompt, and is shown behind it.
    """

    model: nn.Module
    params: Params
    tokenizer: tokenizers.Tokenizer
    encode: Callable[[Prompt], list[int]]
    stops: ending.Stops
    goes_on: bool


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Writes from `checkpoint`, into `output` or to be read at once; `workdir` is not used.

    Raises:
      UserError: before anything is written, for what cannot be.
    """
    del workdir
    _check(config)
    asked = prompts.read(config)
    mesh = make_mesh(**config.parallel)
    writer = _writer(config)
    ids = [_encode(writer, prompt) for prompt in asked]
    writer = writer._replace(params=place_params(writer.params, mesh))
    samples = _write(config, writer, ids)
    if config.output:
        _save(pathlib.Path(config.output), asked, samples)
        return 0
    for i, (prompt, written) in enumerate(zip(asked, samples, strict=True), start=1):
        for j, sample in enumerate(written, start=1):
            if len(asked) * config.num_samples > 1:
                print(f"--- prompt {i}, sample {j}")
            print(prompt.text + sample.text if writer.goes_on else sample.text)
    return 0


def _check(config: ml_collections.ConfigDict) -> None:
    folder_of(config)
    choose("data.on_error", config.data.on_error, ("raise", "skip"))
    if config.num_beams > 1 and config.num_samples > config.num_beams:
        raise UserError(
            f"num_samples={config.num_samples} is more than num_beams={config.num_beams} find"
        )
    if not all(isinstance(text, str) for text in config.stop):
        raise UserError(f"stop={config.stop!r} must hold texts, such as ('END',)")
    if not all(config.stop):
        raise UserError(f"stop={config.stop!r} holds an empty text, which would end everything")
    if config.system and config.raw:
        raise UserError("system is a message of a conversation, and raw=True reads none")
    check_output(config.output, config.prompts_file)


def _encode(writer: Writer, prompt: Prompt) -> list[int]:
    ids = writer.encode(prompt)
    if not ids:
        raise UserError(
            f"{prompt.name} is empty, and the texts of this run begin with no token of their own: "
            "give it at least a word"
        )
    return ids


def _write(
    config: ml_collections.ConfigDict, writer: Writer, ids: list[list[int]]
) -> list[list[Written]]:
    """`num_samples` texts for each prompt; by beam search the best ones."""
    tokenizer = writer.tokenizer
    stops = ending.stops(tokenizer, writer.stops.ids, [*writer.stops.strings, *config.stop])
    settings = dict(
        vocab_size=tokenizer.vocab_size,
        max_new_tokens=config.max_new_tokens,
        stop_ids=stops.ids,
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
        samples = [best[: config.num_samples] for best in found]
    else:
        repeated = [x for x in ids for _ in range(config.num_samples)]
        befores = repeated if writer.goes_on else [()] * len(repeated)
        flat = sampling.sample(
            writer.model,
            writer.params,
            repeated,
            jax.random.key(config.seed),
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            is_ended=ending.finder(tokenizer, befores, stops.strings),
            **settings,
        )
        n = config.num_samples
        samples = [flat[i : i + n] for i in range(0, len(flat), n)]
    return [
        [
            ending.written(
                tokenizer, prompt if writer.goes_on else (), x.tokens, x.stop_id, stops.strings
            )
            for x in of_prompt
        ]
        for prompt, of_prompt in zip(ids, samples, strict=True)
    ]


def _save(path: pathlib.Path, asked: list[Prompt], samples: list[list[Written]]) -> None:
    """A line a sample, in the order of the prompts."""
    lines = []
    for prompt, written in zip(asked, samples, strict=True):
        given = prompt.fields if prompt.text is None else {"prompt": prompt.text}
        for sample in written:
            lines.append(report.json_line(given | sample._asdict()))
    atomic_files.write(path, "".join(lines))
    print(f"written to {path}: {len(lines)} texts")


def _writer(config: ml_collections.ConfigDict) -> Writer:
    """Opens `checkpoint`; how a prompt is read is said on standard error where it may surprise."""
    folder = folder_of(config)
    loaded = run_lib.load(folder)
    prompting.say_what_is_unused(folder, loaded.tokenizer)
    task = loaded.task if isinstance(loaded, task_model.SavedTaskModel) else None
    if not isinstance(task, language.Seq2Seq | language.Chat | None):
        raise UserError(
            f"checkpoint={folder} was trained for {loaded.config['task']['kind']}, and writes"
            " nothing; evaluate it instead"
        )
    architecture = family_named(loaded.config["model"]["name"]).architecture
    if architecture == "encoder":
        raise UserError(f"checkpoint={folder} is an encoder, which writes nothing")
    tokenizer, goes_on = loaded.tokenizer, False
    template = None if config.raw else prompting.chat_template(loaded)
    if template is not None:
        if task is None:
            _say("each prompt is a user's message, by the chat template; --config.raw=True: a text")
        prompting.say_what_ends(template)
        encode = functools.partial(_ask, template, config.system)
    elif config.system:
        raise UserError(f"system is set, and checkpoint={folder} has no chat template")
    elif task is not None and not config.raw:
        encode = lambda prompt: task.prompt_ids(_text(prompt)).tolist()
    else:
        goes_on = architecture == "decoder"
        affixes = prompting.affixes_of(loaded.config, tokenizer)
        spells = config.raw or prompting.reads_special(loaded.config)
        read = tokenizer.encode_written if spells else tokenizer.encode_with_offsets
        encode = lambda prompt: affixes.around(read(_text(prompt)).ids.tolist())
    stops = prompting.stops(tokenizer, template)
    return Writer(loaded.model, loaded.params, tokenizer, encode, stops, goes_on)


def _ask(template: chat_template.ChatTemplate, system: str, prompt: Prompt) -> list[int]:
    """What precedes the answer."""
    fields = prompt.fields
    if prompt.text is not None:
        fields = {"messages": [{"role": "user", "content": prompt.text}]}
    before = [{"role": "system", "content": system}] if system else []
    read = conversations.asked(prompt.name, fields, "messages", template.takes_role)
    return template.prompt(prompt.name, read._replace(messages=[*before, *read.messages])).tolist()


def _text(prompt: Prompt) -> str:
    if prompt.text is None:
        raise UserError(
            f"{prompt.name}: messages need a chat template, and this run has none that is used; "
            "give a prompt"
        )
    return prompt.text


def _say(line: str) -> None:
    print(line, file=sys.stderr)
