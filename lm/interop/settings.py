"""Checks config.json of `transformers`, setting by setting.

A family's table names every setting that its models know there: those that are used, those that
change the arithmetic and may have one value only, and those that change nothing. Whatever else a
file says is given back by name, so that no setting is passed over in silence.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lm.errors import UserError

_REQUIRED = object()
_LARGEST = 2**31 - 1


class Setting(NamedTuple):
    """Says what one setting of config.json may be."""

    default: Any  # Of transformers, where the file does not name it.
    problem: Callable[[Any], str]  # What is wrong with a value, or "".
    is_used: bool = True  # Otherwise its value is checked, and changes nothing.


def count(default: Any = _REQUIRED, *, least: int = 1, or_null: bool = False) -> Setting:
    """Takes a whole number."""

    def problem(value: Any) -> str:
        is_whole = isinstance(value, int) and not isinstance(value, bool)  # True is an int, too.
        if (value is None and or_null) or (is_whole and least <= value <= _LARGEST):
            return ""
        return f"must be a whole number from {least} to {_LARGEST}"

    return Setting(default, problem)


def number(
    default: float | None, *, positive: bool = True, below: float = math.inf, or_null: bool = False
) -> Setting:
    """Takes a finite number; with `positive` it is not 0."""

    def problem(value: Any) -> str:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if (value is None and or_null) or (
            is_number and (value > 0 if positive else value >= 0) and value < below
        ):
            return ""
        limit = "" if below == math.inf else f", below {below:g}"
        return f"must be a {'positive number' if positive else 'number from 0'}{limit}"

    return Setting(default, problem)


def flag(default: bool) -> Setting:
    """Takes true or false."""
    return Setting(default, lambda x: "" if isinstance(x, bool) else "must be true or false")


def some_of(*types: type) -> Setting:
    """Takes a value of one of these types, which the family looks into; or null."""
    names = " or ".join(t.__name__ for t in types)
    return Setting(
        None, lambda x: "" if x is None or isinstance(x, types) else f"must be a {names}, or null"
    )


def only(*values: Any) -> Setting:
    """Takes these values alone, of a setting that changes the arithmetic; the first is usual."""

    def problem(value: Any) -> str:
        if any(value == x and type(value) is type(x) for x in (*values, *map(_as_float, values))):
            return ""
        listed = " and ".join(map(repr, values[:1] if None in values else values))
        return f"is not supported; only {listed} {'is' if ' and ' not in listed else 'are'}"

    return Setting(values[0], problem, is_used=False)  # `transformers` has it so.


def _as_float(value: Any) -> Any:
    """Gives what JSON may have in place of a number: 1 for 1.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


IRRELEVANT = Setting(None, lambda value: "", is_used=False)
Table = Mapping[str, Setting]

# Of every model of transformers: what it is called, trained, and written with.
_GENERATION = """
max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores
return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values
exponential_decay_length_penalty suppress_tokens begin_suppress_tokens use_cache
"""
_ABOUT = """
architectures model_type transformers_version dtype torch_dtype _name_or_path name_or_path
initializer_range initializer_factor bos_token_id eos_token_id pad_token_id sep_token_id
decoder_start_token_id unk_token_id mask_token_id cls_token_id output_attentions
output_hidden_states output_past return_dict use_return_dict torchscript use_bfloat16
tf_legacy_loss gradient_checkpointing id2label label2id num_labels problem_type finetuning_task
task_specific_params chunk_size_feed_forward tokenizer_class prefix attn_implementation
_attn_implementation _attn_implementation_autoset _commit_hash unsloth_version unsloth_fixed
language directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers
pooler_size_per_head pooler_type n_special predict_special_tokens model_max_length
is_activation_checkpointing
"""
# What other families scale, cap or leave out: a model that names them was not meant to do without.
_SCALES = "logit_scale logits_scaling embedding_multiplier residual_multiplier"
_CAPS = """
attention_multiplier attn_logit_softcapping final_logit_softcapping logit_soft_cap
query_pre_attn_scalar clip_qkv attention_chunk_size no_rope_layers cross_attention_hidden_size
quantization_config
"""
_CHANGES = """
scale_embedding qk_norm use_qk_norm rope_interleaved use_parallel_residual parallel_attn
tie_encoder_decoder
"""
COMMON: dict[str, Setting] = {
    **dict.fromkeys(_SCALES.split(), only(1.0, None)),
    **dict.fromkeys(_CAPS.split(), only(None)),
    **dict.fromkeys(_CHANGES.split(), only(False, None)),
    **dict.fromkeys(["num_experts", "num_local_experts"], only(None, 0)),
    "pruned_heads": only({}, None),
    **dict.fromkeys((_GENERATION + _ABOUT).split(), IRRELEVANT),
}


def read(
    config: Mapping[str, Any], table: Table, aliases: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the settings that are used, complete and checked, and those that are not known here.

    Args:
      config: config.json.
      table: of the family, beside which `COMMON` holds.
      aliases: other names of settings, as transformers takes them.

    Raises:
      UserError: a value that cannot be, or is not supported; a setting that is missing.
    """
    named = {}
    for name, value in config.items():
        own = aliases.get(name, name)
        if own != name and own in config and config[own] != value:
            raise UserError(
                f"config.json: {name}={value!r} and {own}={config[own]!r} are one setting, and "
                "differ; remove one of them"
            )
        named[own] = value
    known = COMMON | dict(table)  # A family's own word on a setting counts.
    used = {}
    for name, setting in known.items():
        if name not in named and setting.default is _REQUIRED:
            raise UserError(f"config.json lacks {name!r}; restore the file")
        value = named.get(name, setting.default)
        if name in named and (problem := setting.problem(value)):
            raise UserError(f"config.json: {name}={_short(value)} {problem}")
        if setting.is_used:
            used[name] = value
    unknown = {k: v for k, v in named.items() if k not in known and v is not None}
    return used, unknown


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def one_dropout(rates: Mapping[str, float]) -> float:
    """Gives the rate of these settings; raises UserError where they do not agree on one."""
    if len(set(rates.values())) > 1:
        named = ", ".join(f"{name}={rate}" for name, rate in rates.items())
        raise UserError(
            f"config.json: {named}: only one rate of dropout is supported; make them the same "
            "there, which changes nothing but training"
        )
    return next(iter(rates.values()))


def head_dim(width: int, heads: int, names: str) -> int:
    """Divides the model's width among heads; raises UserError where that leaves a rest."""
    if width % heads:
        raise UserError(f"config.json: {names}: {heads} heads do not divide the width of {width}")
    return width // heads
