"""Reads which tokens end what a model writes, as folders of `transformers` say it."""

import json
import pathlib
from typing import Any

from lm.errors import UserError
from lm.system import folder_files
from lm.system.folder_files import json_object

FILE = "generation_config.json"


def read(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns the file that names such tokens, by the name to keep it by; {} without one.

    Raises:
      UserError: config.json speaks, and names no ids.
    """
    if folder_files.has(folder / FILE):
        return {FILE: (folder / FILE).read_bytes()}
    path = folder / "config.json"  # Counts without the other alone, as in `transformers`.
    try:
        config = json_object(path, path.read_bytes())
    except (OSError, UserError):  # Whoever reads the model says what it is.
        return {}
    if "eos_token_id" not in config:
        return {}
    _ids(str(path), config["eos_token_id"])
    return {FILE: json.dumps({"eos_token_id": config["eos_token_id"]}).encode()}


def parse(contents: bytes) -> tuple[int, ...]:
    """Returns the ids that `eos_token_id` names: one, a list of them, or none.

    Raises:
      UserError: the file is damaged, or names something else.
    """
    return _ids(FILE, json_object(FILE, contents).get("eos_token_id"))


def _ids(name: str, found: Any) -> tuple[int, ...]:
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise UserError(f"{name}: eos_token_id={found!r} must be an id, or a list of ids; mend it")
    return tuple(ids)


def unused_settings(folder: pathlib.Path, vocab_size: int) -> str:
    """Says in a line what generation_config.json asks for and does not get; "" for nothing.

    That is what would change even greedy text and is not done here; what counts here only as an
    option; and an end of text that is no id below `vocab_size`.
    """
    found, contents = unread(folder), read(folder).get(FILE, b"{}")
    asked = {k: x for k, x in found.items() if x is not None and x != _NEUTRAL.get(k)}
    if not asked.pop("do_sample", False):  # `transformers` ignores these, too, in greedy text.
        asked = {k: x for k, x in asked.items() if k not in _SAMPLING}
    if "num_beams" not in asked:
        asked = {k: x for k, x in asked.items() if k not in _BEAM_SEARCH}
    shown = {k: text if len(text := str(x)) <= 60 else f"{text[:60]}..." for k, x in asked.items()}
    said = lambda names, start: ", ".join(f"{start}{k}={shown[k]}" for k in names if k in asked)
    lines = []
    if beyond := [str(i) for i in parse(contents) if i >= vocab_size]:
        lines.append(f"an end at {', '.join(beyond)[:60]}, which is no token of its tokenizer's")
    if undone := said([k for k in asked if k not in _OPTIONS], ""):
        lines.append(f"{undone}, which is not done here")
    if options := said(_OPTIONS, "--config.").replace(", ", " "):
        lines.append(f"what counts only where it is given: {options}")
    name = FILE if (folder / FILE).is_file() else "config.json"
    return f"{folder / name} asks for {'; and for '.join(lines)}" if lines else ""


def unread(folder: pathlib.Path) -> dict[str, object]:
    """Returns generation_config.json without ids and what is about the file: an export keeps it."""
    found = json_object(FILE, read(folder).get(FILE, b"{}"))
    return {k: x for k, x in found.items() if k not in (*_IDS, *_ABOUT)}


_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
_ABOUT = ("_from_model_config", "transformers_version")
# What transformers 5.24.0 takes where a key is missing; but a top_k of 50 would count.
_NEUTRAL = {
    "max_length": 20,
    "early_stopping": False,
    "num_return_sequences": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "use_cache": True,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict_in_generate": False,
    "remove_invalid_values": False,
    "low_memory": False,
    "token_healing": False,
    "disable_compile": False,
    "is_assistant": False,
    "num_assistant_tokens": 20,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.4,
    "assistant_lookbehind": 10,
    "target_lookbehind": 10,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "renormalize_logits": False,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "num_beams": 1,
    "length_penalty": 1.0,
}
_SAMPLING = ("min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "temperature", "top_k", "top_p")
_BEAM_SEARCH = ("length_penalty", "early_stopping", "num_beam_groups", "diversity_penalty")
_OPTIONS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "num_beams",
    "length_penalty",
    "max_new_tokens",
)
