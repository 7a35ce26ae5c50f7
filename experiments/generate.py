"""Writes what a run writes after prompts, or as answers to them."""

import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import ml_collections

from experiments import report
from experiments.wiring.number_ranges import check_output, folder_of
from lm.data import unlabelled
from lm.errors import UserError
from lm.formats import files
from lm.formats.fields import Record, kind_of
from lm.generation.ending import Written
from lm.inference import prompting
from lm.inference.writing import Prompt, Writer, make_writer, write
from lm.loading import task_model
from lm.loading.run import Run, load
from lm.parallel.mesh import make_mesh
from lm.settings import choose, keywords
from lm.system import atomic_files

_DRAFTS = ("", "lookup")  # Anything else is a folder.


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Writes from `checkpoint`, into `output` or to be read at once; `workdir` is not used.

    Raises:
      UserError: before anything is written, for what cannot be.
    """
    del workdir
    _check(config)
    asked = read_prompts(config.prompt, config.prompts_file, config.data)
    mesh = make_mesh(**config.parallel)
    loaded = load(folder_of(config.checkpoint), mesh=mesh)
    writer = _writer(loaded, config.raw, config.system)
    ids = [writer.prompt_ids(prompt) for prompt in asked]
    # All prompts are read before the first is answered: one that is too long stops the command.
    settings = {name: config[name] for name in keywords(write)}
    if config.draft not in _DRAFTS:
        settings["draft"] = load(pathlib.Path(config.draft), mesh=mesh)
    is_single = len(asked) * config.num_samples == 1
    if is_single and not config.output and sys.stdout.isatty():
        _write_to_screen(writer, asked[0], ids, settings)
        return 0
    samples = write(writer, ids, **settings)
    if config.output:
        _save(pathlib.Path(config.output), asked, samples)
        return 0
    for i, (prompt, written) in enumerate(zip(asked, samples, strict=True), start=1):
        for j, sample in enumerate(written, start=1):
            if not is_single:
                print(f"--- prompt {i}, sample {j}")
            print(_start(writer, prompt) + sample.text)
    return 0


def _start(writer: Writer, prompt: Prompt) -> str:
    # What goes on with a text begins with it; an answer does not repeat the question.
    return prompt.text if writer.goes_on else ""


def _write_to_screen(
    writer: Writer, prompt: Prompt, ids: list[list[int]], settings: dict[str, Any]
) -> None:
    """Prints the text of one prompt while it is written."""
    shown: list[str] = []

    def show(text):
        print(text if shown else _start(writer, prompt) + text, end="", flush=True)
        shown.append(text)

    ((written,),) = write(writer, ids, show, **settings)
    show(written.text.removeprefix("".join(shown)) + "\n")


def _check(config: ml_collections.ConfigDict) -> None:
    folder_of(config.checkpoint)
    choose("data.on_error", config.data.on_error, ("raise", "skip"))
    if config.num_beams > 1 and config.num_samples > config.num_beams:
        raise UserError(
            f"num_samples={config.num_samples} is more than num_beams={config.num_beams} find"
        )
    if not all(config.stop):
        raise UserError(f"stop={config.stop!r} holds an empty text, which would end everything")
    if config.system and config.raw:
        raise UserError("system is a message of a conversation, and raw=True reads none")
    if config.draft not in _DRAFTS and not pathlib.Path(config.draft).is_dir():
        raise UserError(f"draft={config.draft} is neither lookup nor the folder of a run")
    check_output(config.output, config.prompts_file, config.checkpoint)


def read_prompts(prompt: str, prompts_file: str, data: ml_collections.ConfigDict) -> list[Prompt]:
    """The prompts of `prompts_file`, in their order, or `prompt` alone.

    What `on_error` of the `data` block leaves out is counted on standard error.

    Raises:
      UserError: the file cannot be read, is empty, or holds something else.
    """
    if not prompts_file:
        try:
            prompt.encode()
        except UnicodeEncodeError as error:  # Bytes of an argument that are no UTF-8.
            raise UserError(f"prompt holds half a character ({error.reason})") from None
        return [Prompt("prompt", prompt, {})]
    name = f"prompts_file={prompts_file}"
    if prompt:
        raise UserError(f"prompt={prompt!r} and {name} are both set; leave one out")
    skipped: list[UserError] = []
    found = _read_file(pathlib.Path(prompts_file), data.max_document_bytes)
    prompts = list(files.without_errors(found, data.on_error, skipped))
    unread = [error for error in skipped if isinstance(error, files.RestUnread)]
    if lines := [error for error in skipped if error not in unread]:
        _say(f"prompts left out: {len(lines):,}, first: {lines[0]}")
    for error in unread:
        _say(f"the rest of a file was not read: {error}")
    if not prompts:
        raise UserError(f"{name} is empty; write one prompt a line")
    return prompts


def _read_file(path: pathlib.Path, max_bytes: int) -> Iterator[Prompt | UserError]:
    # That of prompts.jsonl.gz is .jsonl.
    *_, suffix = [s.lower() for s in ("", *path.suffixes) if s.lower() not in files.PACKED]
    if suffix == ".json":
        yield UserError(f"prompts_file={path}: write one object a line, and call the file .jsonl")
        return
    text_format = "jsonl" if suffix in (".jsonl", ".ndjson") else "text"
    from_text = lambda name, line: Record(name, {"prompt": line})
    for item in unlabelled.read(path, text_format, max_bytes, from_text, _say):
        yield item if isinstance(item, UserError) else _prompt(*item)


def _prompt(name: str, fields: dict[str, Any]) -> Prompt | UserError:
    """{"prompt": ...}, or {"messages": [...]} with what else belongs to a conversation."""
    given = fields.keys() & {"prompt", "messages"}
    if len(given) != 1:
        return UserError(f'{name}: write either {{"prompt": text}} or {{"messages": [...]}}')
    if "messages" in given:
        return Prompt(name, None, fields)  # A template may read the other fields, such as "tools".
    if not isinstance(fields["prompt"], str):
        return UserError(f"{name}: prompt is {kind_of(fields['prompt'])}, and no text")
    return Prompt(name, fields["prompt"], {})


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
    """Makes the writer; says on standard error what may surprise of how it reads prompts."""
    prompting.say_what_is_unused(run.folder, run.tokenizer)
    writer = make_writer(run, raw=raw, system=system)
    if writer.template is not None:
        if not isinstance(run, task_model.SavedTaskModel):
            _say("each prompt is a user's message, by the chat template; --config.raw=True: a text")
        prompting.say_what_ends(writer.template)
    return writer


def _say(line: str) -> None:
    print(line, file=sys.stderr)
