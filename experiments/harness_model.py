"""A run as lm_eval wants a model. Imported where lm_eval is known to be installed."""

import collections
from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from lm.data.tokenizers import Tokenizer
from lm.errors import UserError
from lm.generate import sampling, scoring
from lm.models.families import family_of
from lm.train.state import Params

_GENERATION = {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p"}


class HarnessModel(TemplateLM):
    """Scores and writes text; what is asked together does not change any answer.

    Contexts that are too long lose their beginning, as lm_eval expects it; `notes` counts them.

    Args:
      model: a decoder, or an encoder with a decoder.
      params: of the model.
      tokenizer: with an end-of-text token.
      add_bos: whether texts begin with the tokenizer's first token; only for a decoder.
      max_len: the most tokens that are read at once.
      batch_size: of texts at once.
      seed: of samples.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Params,
        tokenizer: Tokenizer,
        *,
        add_bos: bool,
        max_len: int,
        batch_size: int,
        seed: int,
    ):
        super().__init__()
        self.has_encoder = family_of(model).architecture == "encoder_decoder"
        self.backend = "seq2seq" if self.has_encoder else "causal"
        self.notes: collections.Counter[str] = collections.Counter()
        self._model, self._params, self._pieces = model, params, tokenizer
        self._max_len, self._batch_size, self._seed = max_len, batch_size, seed
        has_bos = add_bos and not self.has_encoder and tokenizer.bos_id is not None
        self._start = [tokenizer.bos_id] if has_bos else []
        self._end = [tokenizer.eos_id] if self.has_encoder else []

    @property
    def eot_token_id(self) -> int:
        return self._pieces.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What a text is given where nothing precedes it."""
        bos = self._pieces.bos_id
        return self._pieces.eos_id if bos is None else bos

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        ids = self._pieces.encode_batch([string])[0].tolist()
        return ids if add_special_tokens is False else [*self._start, *ids, *self._end]

    def _loglikelihood_tokens(self, requests, **_: Any) -> list[tuple[float, bool]]:
        pairs = [self._fit(context, text) for _, context, text in requests]
        return [(s.log_likelihood, s.is_greedy) for s in self._score(pairs)]

    def _fit(self, context: list[int], text: list[int]) -> tuple[list[int], list[int]]:
        if self.has_encoder:
            room = self._max_len
            if len(context) > room:
                context = context[-room:]
                self.notes["contexts cut"] += 1
            return context, text
        if len(text) > self._max_len:
            raise UserError(
                f"a continuation of {len(text)} tokens exceeds the {self._max_len} that the model "
                "reads; leave out its task"
            )
        room = self._max_len + 1 - len(text)  # The last token is not read.
        if len(context) > room:
            context = context[-room:]
            self.notes["contexts cut"] += 1
        return context, text

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[scoring.Score]:
        return scoring.score(
            self._model,
            self._params,
            pairs,
            vocab_size=self._pieces.vocab_size,
            start_id=self._pieces.pad_id or 0,
            batch_size=self._batch_size,
        )

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        pairs, owners = [], []
        for i, request in enumerate(requests):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self._max_len, 1)
            for window in windows:
                pair = make_disjoint_window(window)
                pairs.append(([], pair[1]) if self.has_encoder else pair)
                owners.append(i)
        if self.has_encoder:  # An encoder that has read nothing but the end.
            pairs = [(self._end, text) for _, text in pairs]
        totals = [0.0] * len(requests)
        for owner, found in zip(owners, self._score(pairs), strict=True):
            totals[owner] += found.log_likelihood
        return totals

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        groups: dict[tuple, list[int]] = collections.defaultdict(list)
        settings = [_settings(request.args[1]) for request in requests]
        for i, each in enumerate(settings):
            groups[tuple(sorted(each.items()))].append(i)
        written: dict[int, str] = {}
        for indices in groups.values():
            of_group = settings[indices[0]]
            prompts = [self._prompt(requests[i].args[0], of_group) for i in indices]
            for i, text in zip(indices, self._write(prompts, of_group), strict=True):
                written[i] = text
        return [written[i] for i in range(len(requests))]

    def _prompt(self, context: str, settings: dict[str, Any]) -> list[int]:
        ids = self.tok_encode(context) or [self.prefix_token_id]
        room = self._max_len - (0 if self.has_encoder else settings["max_gen_toks"])
        if room < 1:
            raise UserError(
                f"max_gen_toks={settings['max_gen_toks']} leaves no room for a context in the "
                f"{self._max_len} tokens that the model reads"
            )
        if len(ids) > room:
            self.notes["contexts cut"] += 1
        return ids[-room:]

    def _write(self, prompts: list[list[int]], settings: dict[str, Any]) -> list[str]:
        """Text up to the first of the strings that end it."""
        outputs = sampling.generate(
            self._model,
            self._params,
            prompts,
            jax.random.key(self._seed),
            vocab_size=self._pieces.vocab_size,
            max_new_tokens=settings["max_gen_toks"],
            temperature=settings["temperature"],
            top_k=settings["top_k"],
            top_p=settings["top_p"],
            stop_ids=self._pieces.stop_ids,
            start_id=self._pieces.pad_id or 0,
            batch_size=self._batch_size,
        )
        texts = []
        for prompt, output in zip(prompts, outputs, strict=True):
            text = self._pieces.decode(output)
            if not self.has_encoder:  # What a text begins with may lose a space of its own.
                before = self._pieces.decode(prompt)
                text = self._pieces.decode([*prompt, *output])[len(before) :]
            ends = [at for stop in settings["until"] if stop and (at := text.find(stop)) >= 0]
            texts.append(text[: min(ends, default=len(text))])
        return texts


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """What a request asks for, complete; greedy unless it samples.

    Raises:
      UserError: a setting that is not known here.
    """
    if unknown := sorted(given.keys() - _GENERATION):
        raise UserError(
            f"generation_kwargs: {unknown[0]}={given[unknown[0]]!r} is not supported; known are "
            f"{', '.join(sorted(_GENERATION))}"
        )
    until = given.get("until", ())
    temperature = given.get("temperature", 1.0 if given.get("do_sample") else 0.0)
    return dict(
        until=(until,) if isinstance(until, str) else tuple(until),
        max_gen_toks=given.get("max_gen_toks", 256),
        temperature=float(temperature if given.get("do_sample", temperature > 0) else 0.0),
        top_k=given.get("top_k") or 0,
        top_p=float(given.get("top_p") or 1.0),
    )
