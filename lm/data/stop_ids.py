"""Which tokens end what a model writes, as folders of `transformers` say it."""

import json
import pathlib

from lm.data.json_files import json_object
from lm.errors import UserError

FILE = "generation_config.json"


def read(folder: pathlib.Path) -> dict[str, bytes]:
    """The file of a folder that names such tokens, by the name to keep it by; nothing without one.

    As in `transformers`, config.json speaks only where there is no generation_config.json.
    """
    if (folder / FILE).is_file():
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


def unused_settings(folder: pathlib.Path) -> dict[str, object]:
    """What generation_config.json asks for that would change even greedy text, and is not done."""
    found = json_object(FILE, read(folder).get(FILE, b"{}"))
    return {
        name: found[name]
        for name, neutral in _NEUTRAL.items()
        if found.get(name) not in (None, neutral)
    }


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
    "num_beams": 1,
    "guidance_scale": None,
    "exponential_decay_length_penalty": None,
    "penalty_alpha": None,
    "prompt_lookup_num_tokens": None,
    "renormalize_logits": False,
}
