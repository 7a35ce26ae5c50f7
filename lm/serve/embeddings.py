"""Reads what /v1/embeddings is asked, and lays vectors out."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lm.errors import UserError
from lm.formats.fields import kind_of
from lm.serve import fields
from lm.serve.computation import Computation
from lm.serve.fields import Field
from lm.serve.refusal import Refusal, invalid
from lm.serve.served_model import ServedEmbedder, ServedModel, needs

_MAX_TEXTS = 2048  # As OpenAI has it.
_KNOWN = {
    "model": Field(fields.text),
    "input": Field(lambda name, value: value),
    "encoding_format": Field(fields.text, "float"),
    "user": Field(fields.text),
}
_UNSUPPORTED = {"dimensions": ()}
_FORMATS = ("float", "base64")


def read(body: Mapping[str, Any], model: ServedModel) -> Computation:
    """Reads a request for vectors of texts.

    Raises:
      Refusal: a field is unknown or out of range, a text does not fit the model, or the model makes
        no vectors.
    """
    values = fields.parse(body, _KNOWN, _UNSUPPORTED)
    embedder = needs(model, model.embedder, "makes no vectors of texts")
    if values["encoding_format"] not in _FORMATS:
        raise invalid("encoding_format", f"must be one of {', '.join(_FORMATS)}")
    texts = _texts(values["input"], model, embedder)
    num_tokens = sum(map(len, texts))

    def answer(vectors: Sequence[np.ndarray]) -> dict[str, Any]:
        shown = _base64 if values["encoding_format"] == "base64" else np.ndarray.tolist
        data = [
            {"object": "embedding", "index": i, "embedding": shown(x)}
            for i, x in enumerate(vectors)
        ]
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        return {"object": "list", "model": model.name, "data": data, "usage": usage}

    return Computation(model, embedder.batches, texts, answer, num_tokens)


def _base64(vector_D: np.ndarray) -> str:
    return base64.b64encode(vector_D.astype("<f4").tobytes()).decode()


def _texts(value: Any, model: ServedModel, embedder: ServedEmbedder) -> list[list[int]]:
    """Reads a text, token ids, or a list of either, as token ids."""
    if value is None:
        raise Refusal("input is missing", param="input", code="missing_required_parameter")
    is_one = isinstance(value, str) or _are_ids(value)
    listed = [value] if is_one else value
    if not isinstance(listed, list) or not (
        all(isinstance(one, str) for one in listed) or all(map(_are_ids, listed))
    ):
        raise Refusal(
            f"input is {kind_of(value)}, and must be a text, a list of texts, token ids, or a list "
            "of lists of token ids",
            param="input",
            code="invalid_type",
        )
    if not 1 <= len(listed) <= _MAX_TEXTS:
        raise invalid("input", f"has {len(listed)} texts, and may have 1 to {_MAX_TEXTS}")
    names = ["input" if is_one else f"input[{i}]" for i in range(len(listed))]
    return [_ids(name, one, model, embedder) for name, one in zip(names, listed, strict=True)]


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def _ids(
    name: str, value: str | list[int], model: ServedModel, embedder: ServedEmbedder
) -> list[int]:
    if isinstance(value, str):
        if not value.strip():
            raise invalid(name, "is empty")
        try:
            ids = embedder.ids(name, value)
        except UserError as error:
            raise Refusal(str(error), param=name, code="invalid_value") from None
    else:
        most = model.tokenizer.vocab_size - 1
        if not all(0 <= one <= most for one in value):
            raise invalid(name, f"holds other numbers than token ids, which are from 0 to {most}")
        ids = value
    if len(ids) > model.max_len:
        raise Refusal(
            f"this model's context is {model.max_len} tokens, and {name} has {len(ids)}; shorten "
            "it",
            param=name,
            code="context_length_exceeded",
        )
    return ids
