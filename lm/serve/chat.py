"""Reads what /v1/chat/completions is asked, and lays its answers out."""

from collections.abc import Mapping, Sequence
from typing import Any

from lm.chat.conversations import asked
from lm.errors import UserError
from lm.generation.requests import GenerationRequest, TokenEvent
from lm.serve import fields, guided_choice, sampling_fields, spelling
from lm.serve.fields import Field
from lm.serve.mailbox import Delta
from lm.serve.refusal import Refusal, invalid
from lm.serve.served_model import ServedModel, needs
from lm.serve.work import Work
from lm.tokenizers.tokenizers import Tokenizer

_as_given = Field(lambda name, value: value)
_KNOWN = sampling_fields.KNOWN | {
    "messages": _as_given,
    "documents": _as_given,  # What a template may read besides.
    "chat_template_kwargs": _as_given,
    "max_tokens": Field(fields.whole(1, 2**31 - 1)),
    "max_completion_tokens": Field(fields.whole(1, 2**31 - 1)),
    "logprobs": Field(fields.flag, False),
    "top_logprobs": Field(fields.whole(0, sampling_fields.MAX_LOGPROBS)),
}
_UNSUPPORTED = sampling_fields.UNSUPPORTED | {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "chat_template": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "echo": (False,),
}


def read(body: Mapping[str, Any], model: ServedModel) -> Work:
    """Reads a request for answers to a conversation.

    Raises:
      Refusal: a field is unknown or out of range, the model has no chat template, or the template
        refuses the conversation.
    """
    values = fields.parse(body, _KNOWN, _UNSUPPORTED)
    needs(model, model.service, "writes nothing; ask /v1/predict or /v1/embeddings")
    has_usage = sampling_fields.has_usage(values)
    sampling_fields.check_guided(values)
    num_tops = values["top_logprobs"]
    if num_tops is not None and not values["logprobs"]:
        raise invalid("top_logprobs", "needs logprobs to be true")
    max_new, param = _max_new(values)
    prompt = _prompt(values, model)
    layout = Chat(model.tokenizer, num_tops or 0 if values["logprobs"] else None)
    sampling = sampling_fields.sampling(values, num_tops or 0)
    shared = dict(
        in_stream=values["stream"],
        has_usage=has_usage,
        num_choices=values["n"],
        num_prompt=len(prompt),
    )
    if answers := values["guided_choice"]:
        end = model.template.end.token_id
        behind = () if end is None else (end,)
        encoded = model.tokenizer.encode_inside(list(answers))
        pairs = [[(prompt, (*ids.tolist(), *behind)) for ids in encoded]]
        requests, settle = guided_choice.plan(model, pairs, answers, sampling, values["n"], max_new)
        return Work(model, requests, layout, settle=settle, **shared)
    stops = model.stops(values["stop"], model.template)
    request = GenerationRequest(
        prompt=prompt,
        max_new_tokens=model.num_new(len(prompt), max_new, None, param),
        sampling=sampling,
        stops=stops.strings,
        stop_ids=stops.ids,
        num_choices=values["n"],
    )
    return Work(model, [request], layout, **shared)


class Chat:
    """Lays messages out; a `Layout`.

    Args:
      tokenizer: spells tokens.
      num_tops: likeliest tokens that are told; None for no log-probabilities.
    """

    prefix, kind, chunk_kind = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, num_tops: int | None):
        self._tokenizer, self._num_tops = tokenizer, num_tops
        self.by_token = num_tops is not None

    def opening(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def choice(self, index: int, request: int, delta: Delta, in_stream: bool) -> Any:
        logprobs = None
        if self._num_tops is not None and (delta.tokens or not in_stream):
            logprobs = {"content": list(map(self._token, delta.tokens)), "refusal": None}
        if not in_stream:
            said = {"message": {"role": "assistant", "content": delta.text, "refusal": None}}
        elif delta.text or logprobs or delta.reason:
            said = {"delta": {"content": delta.text} if delta.text else {}}
        else:
            return None
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": delta.reason}

    def _token(self, event: TokenEvent) -> dict[str, Any]:
        tops = [self._spelt(token, logprob) for token, logprob in event.top]
        return {**self._spelt(event.token, event.logprob), "top_logprobs": tops}

    def _spelt(self, token: int, logprob: float) -> dict[str, Any]:
        return {
            "token": spelling.token_text(self._tokenizer, token),
            "logprob": spelling.log_probability(logprob),
            "bytes": list(spelling.token_bytes(self._tokenizer, token)),
        }


def _max_new(values: Mapping[str, Any]) -> tuple[int | None, str]:
    """Returns how many tokens an answer may have, and the field that says it."""
    names = ("max_completion_tokens", "max_tokens")
    said = [name for name in names if values[name] is not None]
    if len({values[name] for name in said}) > 1:
        raise invalid("max_tokens", "and max_completion_tokens differ; leave one of them out")
    return (values[said[0]], said[0]) if said else (None, names[0])


def _prompt(values: Mapping[str, Any], model: ServedModel) -> tuple[int, ...]:
    if values["messages"] is None:
        raise Refusal("messages is missing", param="messages", code="missing_required_parameter")
    if model.template is None:
        raise Refusal(
            f"the model {model.name} has no chat template; ask /v1/completions for texts",
            param="model",
            code="no_chat_template",
        )
    given: dict[str, Any] = {
        name: values[name]
        for name in ("messages", "documents", "chat_template_kwargs")
        if values[name] is not None
    }
    try:
        conversation = asked("messages", given, "messages", model.template.takes_role)
        ids: Sequence[int] = model.template.prompt("messages", conversation).tolist()
    except UserError as error:
        raise Refusal(str(error), param="messages", code="invalid_value") from None
    return tuple(ids)
