"""Writes what a run writes after prompts, or as answers to them."""

import pathlib
import sys

import ml_collections

from experiments import prompts, report
from experiments.wiring.number_ranges import check_output, folder_of
from lm.errors import UserError
from lm.generation.ending import Written
from lm.inference import prompting
from lm.inference.writing import Prompt, Writer, make_writer, write
from lm.loading import task_model
from lm.loading.run import Run, load
from lm.parallel.mesh import make_mesh
from lm.settings import choose, keywords
from lm.system import atomic_files


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Writes from `checkpoint`, into `output` or to be read at once; `workdir` is not used.

    Raises:
      UserError: before anything is written, for what cannot be.
    """
    del workdir
    _check(config)
    asked = prompts.read(config.prompt, config.prompts_file, config.data)
    mesh = make_mesh(**config.parallel)
    loaded = load(folder_of(config.checkpoint), mesh=mesh)
    writer = _writer(loaded, config.raw, config.system)
    ids = [writer.prompt_ids(prompt) for prompt in asked]
    samples = write(writer, ids, **{name: config[name] for name in keywords(write)})
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
    folder_of(config.checkpoint)
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


def _save(path: pathlib.Path, asked: list[Prompt], samples: list[list[Written]]) -> None:
    """A line a sample, in the order of the prompts."""
    lines = []
    for prompt, written in zip(asked, samples, strict=True):
        given = prompt.fields if prompt.text is None else {"prompt": prompt.text}
        for sample in written:
            lines.append(report.json_line(given | sample._asdict()))
    atomic_files.write(path, "".join(lines))
    print(f"written to {path}: {len(lines)} texts")


def _writer(run: Run, raw: bool, system: str) -> Writer:
    """How a prompt is read is said on standard error where it may surprise."""
    prompting.say_what_is_unused(run.folder, run.tokenizer)
    writer = make_writer(run, raw=raw, system=system)
    if writer.template is not None:
        if not isinstance(run, task_model.SavedTaskModel):
            _say("each prompt is a user's message, by the chat template; --config.raw=True: a text")
        prompting.say_what_ends(writer.template)
    return writer


def _say(line: str) -> None:
    print(line, file=sys.stderr)
