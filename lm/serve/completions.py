"""Reads what /v1/completions is asked, and lays its answers out."""

import codecs
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lm.errors import UserError
from lm.formats.fields import kind_of
from lm.generation.requests import GenerationRequest, Top
from lm.serve import fields, guided_choice, sampling_fields, spelling
from lm.serve.fields import Field
from lm.serve.mailbox import Delta
from lm.serve.refusal import Refusal, invalid
from lm.serve.served_model import ServedModel, needs
from lm.serve.work import Work
from lm.tokenizers.tokenizers import Tokenizer

_USUAL_NEW = 16  # As OpenAI has it.
_KNOWN = sampling_fields.KNOWN | {
    "prompt": Field(lambda name, value: value),
    "max_tokens": Field(fields.whole(0, 2**31 - 1)),
    "echo": Field(fields.flag, False),
    "logprobs": Field(fields.whole(0, sampling_fields.MAX_LOGPROBS)),
}
_UNSUPPORTED = sampling_fields.UNSUPPORTED | {"suffix": ("",)}


class _Prompt(NamedTuple):
    text: str | None  # None where ids were given.
    ids: tuple[int, ...]


def read(body: Mapping[str, Any], model: ServedModel) -> Work:
    """Reads a request for texts that go on from prompts.

    Raises:
      Refusal: a field is unknown or out of range, or a prompt does not fit the model.
    """
    values = fields.parse(body, _KNOWN, _UNSUPPORTED)
    needs(model, model.service, "writes nothing; ask /v1/predict or /v1/embeddings")
    has_usage = sampling_fields.has_usage(values)
    sampling_fields.check_guided(values)
    prompts = _prompts(values["prompt"], model)
    num_logprobs = values["logprobs"]
    if values["echo"] and model.reader.has_encoder:
        raise Refusal(
            "echo is not supported by this model, whose encoder reads the prompt; leave it out",
            param="echo",
            code="unsupported_parameter",
        )
    sampling = sampling_fields.sampling(values, num_logprobs or 0)
    shared = dict(in_stream=values["stream"], has_usage=has_usage, num_choices=values["n"])
    shared["num_prompt"] = sum(len(prompt.ids) for prompt in prompts)
    if values["guided_choice"]:
        if values["echo"]:
            raise invalid("echo", "does nothing where guided_choice gives the answers")
        pairs = [_with_answers(model, prompt, values["guided_choice"]) for prompt in prompts]
        asked, settle = guided_choice.plan(
            model, pairs, values["guided_choice"], sampling, values["n"], values["max_tokens"]
        )
        layout = Completions(model.tokenizer, None, num_logprobs)
        return Work(model, asked, layout, settle=settle, **shared)
    if values["max_tokens"] == 0 and not values["echo"]:
        raise invalid("max_tokens", "is 0, which only a request with echo may ask for")
    stops = model.stops(values["stop"], None)
    requests = [
        GenerationRequest(
            prompt=prompt.ids,
            max_new_tokens=model.num_new(
                len(prompt.ids), values["max_tokens"], _USUAL_NEW, "max_tokens"
            ),
            sampling=sampling,
            stops=stops.strings,
            stop_ids=stops.ids,
            num_choices=values["n"],
            echo_logprobs=values["echo"] and num_logprobs is not None,
            goes_on=not model.reader.has_encoder,
        )
        for prompt in prompts
    ]
    layout = Completions(model.tokenizer, prompts if values["echo"] else None, num_logprobs)
    return Work(model, requests, layout, **shared)


class Completions:
    """Lays texts out; a `Layout`.

    Args:
      tokenizer: spells tokens.
      echoed: prompts that stand before what is written; None for none.
      num_logprobs: likeliest tokens that are told; None for no log-probabilities.
    """

    prefix, kind, chunk_kind = "cmpl-", "text_completion", "text_completion"

    def __init__(
        self, tokenizer: Tokenizer, echoed: Sequence[_Prompt] | None, num_logprobs: int | None
    ):
        self._tokenizer, self._echoed = tokenizer, echoed
        self._num_logprobs, self.by_token = num_logprobs, num_logprobs is not None
        self._places: dict[int, _Place] = {}

    def opening(self, index: int) -> None:
        return None

    def choice(self, index: int, request: int, delta: Delta, in_stream: bool) -> Any:
        text = delta.text
        # The last as others do it; clients that drop the last token expect it.
        tokens = [*delta.tokens, *[delta.end] * (delta.end is not None)]
        told = [(event.token, event.logprob, event.top) for event in tokens]
        if index not in self._places:
            self._places[index] = _Place(0)
            if self._echoed is not None:
                prompt = self._echoed[request]
                given = self._tokenizer.decode(prompt.ids) if prompt.text is None else prompt.text
                text = given + text
                if delta.prompt is not None:
                    before = zip(prompt.ids, delta.prompt.logprobs, delta.prompt.tops, strict=True)
                    told = [*before, *told]
                self._places[index] = _Place(self._num_dropped(prompt.ids, given))
        logprobs = None
        if self._num_logprobs is not None and (told or not in_stream):
            logprobs = self._logprobs(told, self._places[index])
        if in_stream and not (text or logprobs or delta.reason):
            return None
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": delta.reason,
        }

    def _num_dropped(self, ids: Sequence[int], given: str) -> int:
        """Counts the spaces that pieces begin with and the text does not, as SentencePiece's."""
        raw = b"".join(self._tokenizer.raw(i) for i in ids if not self._tokenizer.is_special(i))
        num_spaces = lambda text: len(text) - len(text.lstrip(" "))
        return max(num_spaces(raw.decode(errors="replace")) - num_spaces(given), 0)

    def _logprobs(self, told: Sequence[tuple[int, float | None, Top]], place: "_Place") -> Any:
        spell = lambda token_id: spelling.token_text(self._tokenizer, token_id)
        tops = []
        for token, logprob, top in told:
            # The likelier of two tokens that are spelt alike stays.
            named = dict(reversed([(spell(i), spelling.log_probability(x)) for i, x in top]))
            if logprob is not None:
                named.setdefault(spell(token), spelling.log_probability(logprob))
            tops.append(None if logprob is None else named)
        return {
            "tokens": [spell(token) for token, _, _ in told],
            "token_logprobs": [
                None if x is None else spelling.log_probability(x) for _, x, _ in told
            ],
            "top_logprobs": tops,
            "text_offset": [place.of_next(self._tokenizer, token) for token, _, _ in told],
        }


class _Place:
    """Counts the characters before each token of a text, but for these dropped from its start."""

    def __init__(self, num_dropped: int):
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._num = -num_dropped

    def of_next(self, tokenizer: Tokenizer, token_id: int) -> int:
        place = max(self._num, 0)
        if not tokenizer.is_special(token_id):
            self._num += len(self._decoder.decode(tokenizer.raw(token_id)))
        return place


def _prompts(value: Any, model: ServedModel) -> list[_Prompt]:
    """Reads a prompt or a list of prompts, each a text or token ids."""
    if value is None:
        raise Refusal("prompt is missing", param="prompt", code="missing_required_parameter")
    is_one = isinstance(value, str) or _are_numbers(value)
    listed = [value] if is_one else value
    if not isinstance(listed, list) or not (
        all(isinstance(one, str) for one in listed) or all(map(_are_numbers, listed))
    ):
        raise Refusal(
            f"prompt is {kind_of(value)}, and must be a text, a list of texts, token ids, or a "
            "list of lists of token ids",
            param="prompt",
            code="invalid_type",
        )
    if not 1 <= len(listed) <= model.max_prompts:
        raise invalid("prompt", f"has {len(listed)} prompts, and may have 1 to {model.max_prompts}")
    names = ["prompt" if is_one else f"prompt[{i}]" for i in range(len(listed))]
    return [_prompt(name, one, model) for name, one in zip(names, listed, strict=True)]


def _are_numbers(value: Any) -> bool:
    kinds = {type(one) for one in value} if isinstance(value, list) else set()
    return bool(kinds) and kinds <= {int, float}


def _prompt(name: str, value: str | list[Any], model: ServedModel) -> _Prompt:
    if isinstance(value, str):
        try:
            ids = model.reader.prompt_ids(value)
        except UserError as error:
            raise invalid(name, f"cannot be read: {error}") from None
        if not ids:
            raise invalid(
                name, "is empty, and texts of this model begin with no token of their own"
            )
        return _Prompt(value, tuple(ids))
    for token_id in value:
        if type(token_id) is not int or not 0 <= token_id < model.tokenizer.vocab_size:
            most = model.tokenizer.vocab_size - 1
            raise invalid(name, f"holds {token_id!r:.40}, and must hold token ids from 0 to {most}")
    return _Prompt(None, tuple(value))


def _with_answers(
    model: ServedModel, prompt: _Prompt, answers: Sequence[str]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Gives the tokens of a prompt with each answer behind it, as lm_eval encodes the two."""
    if prompt.text is not None:
        pairs = [model.reader.pair_ids(prompt.text, answer) for answer in answers]
    else:
        encoded = model.tokenizer.encode_inside(list(answers))
        pairs = [(prompt.ids, ids.tolist()) for ids in encoded]
    return [(tuple(before), tuple(behind)) for before, behind in pairs]
