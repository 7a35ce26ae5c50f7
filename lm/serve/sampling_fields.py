"""Reads what completions and chats share: how tokens are drawn, and how an answer is sent."""

from collections.abc import Mapping
from typing import Any

from lm.generation.requests import Sampling
from lm.serve import fields
from lm.serve.fields import Field
from lm.serve.refusal import Refusal, invalid

MAX_LOGPROBS = 20
_MAX_STOPS = 16  # More than OpenAI's 4, for evaluations have lists of them.
_MAX_CHOICES = 128
_MAX_GUIDED = 256

KNOWN = {
    "model": Field(fields.text),
    "n": Field(fields.whole(1, _MAX_CHOICES), 1),
    "temperature": Field(fields.number(0, 100), 1.0),
    "top_p": Field(fields.number(0, 1, above=True), 1.0),
    "top_k": Field(fields.whole(0, 2**31 - 1), 0),
    "min_p": Field(fields.number(0, 1), 0.0),
    "repetition_penalty": Field(fields.number(1e-6, 1e6), 1.0),
    "seed": Field(fields.whole(-(2**63), 2**64 - 1)),
    "stop": Field(fields.texts(0, _MAX_STOPS, or_one=True), ()),
    "guided_choice": Field(fields.texts(1, _MAX_GUIDED), ()),
    "stream": Field(fields.flag, False),
    "stream_options": Field(fields.mapping),
    "user": Field(fields.text),  # Says who asks, and changes nothing.
}
# With what asks for nothing; clients send these without being told to.
UNSUPPORTED = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "metadata": ({},),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "best_of": (1,),
    "ignore_eos": (False,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "skip_special_tokens": (True,),
    "add_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "prompt_logprobs": (),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_grammar": (),
    "use_beam_search": (False,),
    "length_penalty": (1,),
}
_STREAM_OPTIONS = {"include_usage": Field(fields.flag, False)}
# What draws has nothing to say where all answers are given.
_NOT_GUIDED = ("stop", "top_p", "top_k", "min_p", "repetition_penalty")


def sampling(values: Mapping[str, Any], num_logprobs: int) -> Sampling:
    """Makes the settings of what draws from fields that were read."""
    return Sampling(
        temperature=values["temperature"],
        top_k=values["top_k"],
        top_p=values["top_p"],
        min_p=values["min_p"],
        repetition_penalty=values["repetition_penalty"],
        seed=values["seed"],
        num_logprobs=num_logprobs,
    )


def has_usage(values: Mapping[str, Any]) -> bool:
    """Whether a stream ends with what was used.

    Raises:
      Refusal: `stream_options` has another field, or there is no stream.
    """
    if values["stream_options"] is None:
        return False
    if not values["stream"]:
        raise invalid("stream_options", "is about a stream; set stream to true, or leave it out")
    unsupported = {"include_obfuscation": (False,), "continuous_usage_stats": (False,)}
    options = values["stream_options"]
    return fields.parse(options, _STREAM_OPTIONS, unsupported, "stream_options")["include_usage"]


def check_guided(values: Mapping[str, Any]) -> None:
    """Raises Refusal where answers are given together with what only draws tokens."""
    for name in _NOT_GUIDED if values["guided_choice"] else ():
        if values[name] != KNOWN[name].default:
            raise Refusal(
                f"{name} does nothing where guided_choice gives the answers; leave it out",
                param=name,
                code="invalid_value",
            )
