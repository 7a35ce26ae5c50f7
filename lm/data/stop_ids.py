"""Which tokens end what a model writes, as folders of `transformers` say it."""

import json
import pathlib

from lm import folder_files
from lm.data.json_files import json_object
from lm.errors import UserError

FILE = "generation_config.json"


def read(folder: pathlib.Path) -> dict[str, bytes]:
    """The file of a folder that names such tokens, by the name to keep it by; nothing without one.

    As in `transformers`, config.json speaks only where there is no generation_config.json.
    """
    if folder_files.has(folder / FILE):
        return {FILE: (folder / FILE).read_bytes()}
    try:
        config = json_object("config.json", (folder / "config.json").read_bytes())
        return {FILE: json.dumps({"eos_token_id": config["eos_token_id"]}).encode()}
    except (OSError, UserError, KeyError):  # Whoever reads the model says what it is.
        return {}


def parse(contents: bytes) -> tuple[int, ...]:
    """The ids that `eos_token_id` names: one, a list of them, or none.

    Raises:
      UserError: the file is damaged, or names something else.
    """
    found = json_object(FILE, contents).get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise UserError(f"{FILE}: eos_token_id={found!r} must be an id, or a list of ids; mend it")
    return tuple(ids)


def unused_settings(folder: pathlib.Path) -> str:
    """What generation_config.json asks for besides, in a line; "" for nothing.

    Some of it would change even greedy text and is not done here; some of it is options here.
    """
    found = json_object(FILE, read(folder).get(FILE, b"{}"))
    asked = {k: x for k, x in found.items() if x is not None and x != _NEUTRAL.get(k)}
    if not asked.get("do_sample"):  # Else these mean nothing.
        asked = {k: x for k, x in asked.items() if k not in _OF_SAMPLES}
    if "num_beams" not in asked:
        asked.pop("length_penalty", None)
    said = lambda names, start: ", ".join(f"{start}{k}={asked[k]}" for k in names if k in asked)
    lines = []
    if undone := said([k for k in _NEUTRAL if k not in _OPTIONS], ""):
        lines.append(f"{undone}, which is not done here")
    if options := said(_OPTIONS, "--config.").replace(", ", " "):
        lines.append(f"what counts only where it is given: {options}")
    return f"{folder / FILE} asks for {'; and for '.join(lines)}" if lines else ""


def unread(folder: pathlib.Path) -> dict[str, object]:
    """All of generation_config.json but ids and what is about the file: an export keeps it."""
    found = json_object(FILE, read(folder).get(FILE, b"{}"))
    about = ("_from_model_config", "transformers_version")
    return {k: x for k, x in found.items() if k not in about and not k.endswith("_token_id")}


_NEUTRAL = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "sequence_bias": None,
    "min_length": 0,
    "min_new_tokens": 0,
    "stop_strings": None,
    "guidance_scale": None,
    "exponential_decay_length_penalty": None,
    "penalty_alpha": None,
    "prompt_lookup_num_tokens": None,
    "renormalize_logits": False,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "num_beams": 1,
    "length_penalty": 1.0,
    "max_new_tokens": None,
}
_OF_SAMPLES = (
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "temperature",
    "top_k",
    "top_p",
)
_OPTIONS = ("temperature", "top_k", "top_p", "num_beams", "length_penalty", "max_new_tokens")
