"""Adapts a run to lm_eval's interface. Import it only where lm_eval is installed."""

import collections
import functools
import re
from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from lm.chat import template_files
from lm.chat.chat_template import ChatTemplate
from lm.chat.conversations import Conversation
from lm.errors import UserError
from lm.generation import decoding, ending, sampling, scoring
from lm.inference.prompting import TextReader
from lm.models.parameters import Params

# The first that a task gives says how many tokens are written.
_MAX_NEW_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_GENERATION = {"until", "do_sample", "temperature", "top_k", "top_p", *_MAX_NEW_TOKENS}


class HarnessModel(TemplateLM):
    """Scores and writes text; requests in one batch do not change each other's answers.

    Contexts that are too long lose their beginning, as lm_eval expects it; `notes` counts them.

    Args:
      model: a decoder, or an encoder with a decoder.
      params: of the model.
      reader: reads texts; its tokenizer has an end-of-text token.
      template: lays conversations out where lm_eval is to apply it; None where there is none.
      stops: what ends what is written.
      max_len: the most tokens that are read at once.
      batch_size: of texts at once.
      seed: of samples.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Params,
        reader: TextReader,
        *,
        template: ChatTemplate | None,
        stops: ending.Stops,
        max_len: int,
        batch_size: int,
        seed: int,
    ):
        super().__init__()
        self.has_encoder = reader.has_encoder
        self.backend = "seq2seq" if self.has_encoder else "causal"
        self.notes: collections.Counter[str] = collections.Counter()
        self._model, self._params = model, params
        self._reader, self._pieces = reader, reader.tokenizer
        self._max_len, self._seed = max_len, seed
        self._fixed = decoding.vocabulary(reader.tokenizer) | {"batch_size": batch_size}
        self._cut_note = f"contexts cut to the last of {max_len} tokens"
        self._template, self._stops = template, stops

    @property
    def eot_token_id(self) -> int:
        return self._pieces.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self._reader.prefix_id

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        without = add_special_tokens is False
        return self._reader.ids(string) if without else self._reader.prompt_ids(string)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return self._reader.pair_ids(context, continuation)

    @property
    def tokenizer_name(self) -> str:
        """Identifies the tokenizer for lm_eval's cache of contexts."""
        return re.sub(r"\W+", "-", self._pieces.fingerprint)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Returns the template that is used, for lm_eval to write down."""
        return template_files.dumps(self._template.sources) if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Lays a conversation out; without a generation prompt, its last message goes on."""
        render = functools.partial(self._context, is_continued=not add_generation_prompt)
        try:
            return render(chat_history)
        except UserError:  # As lm_eval does with its own models.
            without = [message for message in chat_history if message["role"] != "system"]
            if len(without) == len(chat_history):
                raise
            self.notes["system messages, which the chat template refuses, left out"] += 1
            return render(without)

    def _context(self, messages: list[dict[str, str]], *, is_continued: bool) -> str:
        return self._template.text("a context", Conversation(messages), is_continued=is_continued)

    def _loglikelihood_tokens(self, requests, **_: Any) -> list[tuple[float, bool]]:
        pairs = [self._fit(context, text) for _, context, text in requests]
        return [(s.log_likelihood, s.is_greedy) for s in self._score(pairs)]

    def _fit(self, context: list[int], text: list[int]) -> tuple[list[int], list[int]]:
        if self.has_encoder:
            return self._cut(context, self._max_len), text
        if len(text) > self._max_len:
            raise UserError(
                f"a continuation of {len(text)} tokens exceeds the {self._max_len} that the model "
                "reads; leave out its task"
            )
        return self._cut(context, self._max_len + 1 - len(text)), text  # The last is not read.

    def _cut(self, ids: list[int], room: int) -> list[int]:
        if len(ids) > room:
            self.notes[self._cut_note] += 1
        return ids[-room:]

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[scoring.Score]:
        return scoring.score(self._model, self._params, pairs, **self._fixed)

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        pairs, owners = [], []
        for i, request in enumerate(requests):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self._max_len, 1)
            for window in windows:
                context, text = make_disjoint_window(window)
                # An encoder reads nothing but the end.
                pairs.append(([self.eot_token_id] if self.has_encoder else context, text))
                owners.append(i)
        totals = [0.0] * len(requests)
        for owner, found in zip(owners, self._score(pairs), strict=True):
            totals[owner] += found.log_likelihood
        return totals

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        groups: dict[tuple, list[int]] = collections.defaultdict(list)
        settings = [_settings(request.args[1]) for request in requests]
        # A call takes one temperature and one list of stops.
        for i, each in enumerate(settings):
            groups[tuple(sorted(each.items()))].append(i)
        written = [""] * len(requests)
        for indices in groups.values():
            of_group = settings[indices[0]]
            prompts = [self._prompt(requests[i].args[0], of_group) for i in indices]
            for i, text in zip(indices, self._write(prompts, of_group), strict=True):
                written[i] = text
        return written

    def _prompt(self, context: str, settings: dict[str, Any]) -> list[int]:
        ids = self.tok_encode(context) or [self.prefix_token_id]
        room = self._max_len - (0 if self.has_encoder else settings["max_gen_toks"])
        if room < 1:
            raise UserError(
                f"max_gen_toks={settings['max_gen_toks']} leaves no room for a context in the "
                f"{self._max_len} tokens that the model reads"
            )
        return self._cut(ids, room)

    def _write(self, prompts: list[list[int]], settings: dict[str, Any]) -> list[str]:
        """Writes up to the first string, or token, that ends a text."""
        until = [*self._stops.strings, *settings["until"]]
        stops = ending.stops(self._pieces, self._stops.ids, until)
        befores = [() if self.has_encoder else prompt for prompt in prompts]
        outputs = sampling.sample(
            self._model,
            self._params,
            prompts,
            jax.random.key(self._seed),
            max_new_tokens=settings["max_gen_toks"],
            stop_ids=stops.ids,
            is_ended=ending.finder(self._pieces, befores, stops.strings),
            **{name: settings[name] for name in ("temperature", "top_k", "top_p")},
            **self._fixed,
        )
        return [
            ending.written(self._pieces, before, *output, stops.strings).text
            for before, output in zip(befores, outputs, strict=True)
        ]


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """Completes what a request asks for; greedy unless it samples.

    Raises:
      UserError: a setting that is not known here.
    """
    if unknown := sorted(given.keys() - _GENERATION):
        raise UserError(
            f"generation_kwargs: {unknown[0]}={given[unknown[0]]!r} is not supported; known are "
            f"{', '.join(sorted(_GENERATION))}"
        )
    until = given.get("until") or ()
    num_new = [given[name] for name in _MAX_NEW_TOKENS if given.get(name) is not None]
    temperature = given.get("temperature", 1.0 if given.get("do_sample") else 0.0)
    return dict(
        until=(until,) if isinstance(until, str) else tuple(until),
        max_gen_toks=int(num_new[0]) if num_new else 256,
        temperature=float(temperature if given.get("do_sample", temperature > 0) else 0.0),
        top_k=given.get("top_k") or 0,
        top_p=float(given.get("top_p") or 1.0),
    )
