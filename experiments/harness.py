"""Runs the tasks of lm_eval, the language model evaluation harness, against a run."""

import json
import pathlib
from typing import Any

import ml_collections

from experiments.wiring.number_ranges import folder_of
from lm.errors import UserError
from lm.inference import prompting
from lm.loading import run as run_lib
from lm.models.families import family_of
from lm.parallel.mesh import make_mesh
from lm.system import atomic_files


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Prints a table of scores, and writes all that lm_eval gives to `results.json` in `workdir`.

    Raises:
      UserError: before anything is scored, for what cannot be.
    """
    folder_of(config.checkpoint)
    if config.batch_size < 1:
        raise UserError(f"batch_size={config.batch_size} must be at least 1")
    names = [name for name in config.tasks.split(",") if name]
    if not names:
        raise UserError("tasks is not set; give names, with commas between: --config.tasks=A,B")
    try:
        import lm_eval
        import lm_eval.tasks
    except ImportError:
        raise UserError("the harness needs lm_eval; run: pip install lm_eval") from None
    if config.include_path and not pathlib.Path(config.include_path).is_dir():
        raise UserError(f"include_path={config.include_path} is no folder")
    if config.fewshot_as_multiturn and not config.apply_chat_template:
        raise UserError(
            "fewshot_as_multiturn=True is about chats; set apply_chat_template=True too"
        )
    model = load(config)
    manager = lm_eval.tasks.TaskManager(
        include_path=config.include_path or None, include_defaults=config.default_tasks
    )
    for name in names:
        if not manager.match_tasks([name]):
            raise UserError(f"tasks: {name!r} is unknown to lm_eval, and to include_path")
    results = lm_eval.simple_evaluate(
        model,
        tasks=names,
        num_fewshot=None if config.num_fewshot < 0 else config.num_fewshot,
        limit=config.limit or None,
        task_manager=manager,
        bootstrap_iters=1000,  # Of standard errors; its default is a hundred times as many.
        log_samples=config.log_samples,
        apply_chat_template=config.apply_chat_template,
        fewshot_as_multiturn=config.fewshot_as_multiturn,
        system_instruction=config.system_instruction or None,
        random_seed=config.seed,  # They choose and order examples.
        numpy_random_seed=config.seed,
        torch_random_seed=config.seed,
        fewshot_random_seed=config.seed,
    )
    print(lm_eval.utils.make_table(results))
    for what, count in model.notes.items():
        print(f"{count} {what}")
    workdir.mkdir(parents=True, exist_ok=True)
    kept = {"settings": config.to_dict(), "step": model.step}
    kept |= {key: results[key] for key in _KEPT if key in results}
    text = json.dumps(kept, indent=1, ensure_ascii=False, default=_as_json)
    atomic_files.write(workdir / "results.json", text + "\n")
    print(f"written to {workdir}: results.json")
    return 0


_KEPT = ("results", "groups", "n-shot", "n-samples", "versions", "configs", "samples")


def load(config: ml_collections.ConfigDict):
    """Loads the run as lm_eval wants a model.

    Raises:
      UserError: an encoder, a run of a task that writes no text, or lengths that do not fit.
    """
    from lm.inference.lm_eval_model import HarnessModel

    folder = folder_of(config.checkpoint)
    loaded = run_lib.load(folder, mesh=make_mesh(**config.parallel))
    prompting.say_what_is_unused(folder, loaded.tokenizer)
    if "body" in loaded.params or family_of(loaded.model).architecture == "encoder":
        raise UserError(f"checkpoint={folder} gives no likelihood to text; take a run that writes")
    positions = loaded.model.config.max_len
    max_len = config.max_len or positions
    if max_len is None:
        raise UserError("max_len is not set, and this model reads any number of tokens; set it")
    if max_len < 2 or (positions is not None and max_len > positions):
        raise UserError(f"max_len={max_len} must be from 2 to the model's {positions} positions")
    if loaded.tokenizer.eos_id is None:
        raise UserError(f"checkpoint={folder} has a tokenizer without an end-of-text token")
    tokenizer, template = loaded.tokenizer, prompting.chat_template(loaded)
    reader = prompting.reader_of(loaded)
    if config.add_bos is not None and not reader.has_encoder:
        has_bos = config.add_bos and tokenizer.bos_id is not None
        affixes = prompting.PromptAffixes((tokenizer.bos_id,) if has_bos else (), ())
        reader = reader._replace(affixes=affixes)
    if config.apply_chat_template:
        if template is None:
            raise UserError(f"apply_chat_template=True: checkpoint={folder} has no chat template")
        # A template writes all that stands before a text.
        affixes = prompting.PromptAffixes((), reader.affixes.end)
        reader = reader._replace(affixes=affixes, reads_special=True)
    stops = prompting.stops(tokenizer, template)  # Beside those of each task.
    if config.apply_chat_template:
        prompting.say_what_ends(template)
    else:
        stops = stops._replace(strings=())  # A text that is no answer may hold it.
    model = HarnessModel(
        loaded.model,
        loaded.params,
        reader,
        template=template,
        stops=stops,
        max_len=max_len,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    model.step = loaded.step
    return model


def _as_json(value: Any) -> Any:
    """Writes NumPy's numbers as Python's, and whatever else by its name."""
    return value.item() if hasattr(value, "item") else str(value)
