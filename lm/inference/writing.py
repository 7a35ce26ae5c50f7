"""Continues prompts, or answers them, as a run was trained to."""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from lm.chat.chat_template import ChatTemplate
from lm.chat.conversations import asked
from lm.errors import UserError
from lm.generation import beam, decoding, ending, sampling, speculative
from lm.generation.draft_model import DraftModel
from lm.generation.ending import Written
from lm.inference import prompting
from lm.loading import task_model
from lm.loading.run import Run
from lm.models.factory import family_named
from lm.models.kv_cache import unstack_for_decoding
from lm.models.parameters import Params
from lm.settings import choose
from lm.tasks import language
from lm.tokenizers.tokenizers import Tokenizer

# Of what draws, all but what always has a value that restricts.
_ASK_FOR_NOTHING = {"top_k": 0, "min_p": 0, "repetition_penalty": 1}


class Prompt(NamedTuple):
    """Holds a text, or a conversation."""

    name: str  # What errors call it.
    text: str | None  # None for a conversation.
    fields: dict[str, Any]  # Of a conversation: "messages" and what else a chat template reads.


class Writer(NamedTuple):
    """Holds a run that writes, and how it reads a prompt."""

    model: nn.Module
    params: Params
    tokenizer: Tokenizer
    encode: Callable[[Prompt], list[int]]  # What the model reads of it, which may be nothing.
    stops: ending.Stops
    goes_on: bool  # What it writes goes on from the prompt, and is shown behind it.
    template: ChatTemplate | None  # Lays a text out as a user's message; None: it is read alone.

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Gives the tokens that the model reads.

        Raises:
          UserError: there are none, or the prompt is no conversation that the template takes.
        """
        ids = self.encode(prompt)
        if not ids:
            raise UserError(
                f"{prompt.name} is empty, and the texts of this run begin with no token of their "
                "own: give it at least a word"
            )
        return ids


def make_writer(run: Run, *, raw: bool = False, system: str = "") -> Writer:
    """Finds how a run reads prompts and ends what it writes.

    Args:
      run: a decoder, or an encoder with a decoder, that was trained for no other task.
      raw: prompts are gone on from as they stand, without chat template or task.
      system: a message that precedes each prompt, where there is a chat template.

    Raises:
      UserError: a run that writes nothing, or a system message without a chat template.
    """
    task = run.task if isinstance(run, task_model.SavedTaskModel) else None
    if not isinstance(task, language.Seq2Seq | language.Chat | None):
        raise UserError(
            f"checkpoint={run.folder} was trained for {run.config['task']['kind']}, and writes"
            " nothing; evaluate it instead, or have configs/predict.py label texts"
        )
    architecture = family_named(run.config["model"]["name"]).architecture
    if architecture == "encoder":
        raise UserError(f"checkpoint={run.folder} is an encoder, which writes nothing")
    goes_on = False
    template = None if raw else prompting.chat_template(run)
    if template is not None:
        encode = functools.partial(_ask, template, system)
    elif system:
        raise UserError(f"system is set, and checkpoint={run.folder} has no chat template")
    elif task is not None and not raw:
        encode = lambda prompt: task.prompt_ids(_text(prompt)).tolist()
    else:
        goes_on = architecture == "decoder"
        reader = prompting.reader_of(run)
        reader = reader._replace(reads_special=raw or reader.reads_special)
        encode = lambda prompt: reader.prompt_ids(_text(prompt))
    stops = prompting.stops(run.tokenizer, template)
    return Writer(run.model, run.params, run.tokenizer, encode, stops, goes_on, template)


def _ask(template: ChatTemplate, system: str, prompt: Prompt) -> list[int]:
    """Encodes a conversation up to where the answer begins."""
    fields = prompt.fields
    if prompt.text is not None:
        fields = {"messages": [{"role": "user", "content": prompt.text}]}
    before = [{"role": "system", "content": system}] if system else []
    read = asked(prompt.name, fields, "messages", template.takes_role)
    return template.prompt(prompt.name, read._replace(messages=[*before, *read.messages])).tolist()


def _text(prompt: Prompt) -> str:
    if prompt.text is None:
        raise UserError(
            f"{prompt.name}: messages need a chat template, and this run has none that is used; "
            "give a prompt"
        )
    return prompt.text


def write(
    writer: Writer,
    ids: Sequence[Sequence[int]],
    show: Callable[[str], None] | None = None,
    *,
    seed: int,
    stop: Sequence[str],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    max_new_tokens: int,
    num_samples: int,
    num_beams: int,
    length_penalty: float,
    draft: str | Run,
) -> list[list[Written]]:
    """Writes `num_samples` texts for each prompt; by beam search the best ones.

    Args:
      writer: see `make_writer`.
      ids: of each prompt; see `Writer.prompt_ids`.
      show: is given the start of a text while it is written, piece by piece, as `TextStream` does;
        for a single sample. Nothing of it can be shown of beams.
      seed: of what is drawn.
      stop: texts that end what is written, besides what ends it anyway.
      temperature, top_k, top_p, min_p, repetition_penalty, max_new_tokens: see `sampling.sample`.
      num_samples: with beams, at most as many as these.
      num_beams: above 1, nothing is drawn: `temperature` and `top_p` change nothing, and what else
        is about drawing is refused.
      length_penalty: see `beam.search`.
      draft: guesses several tokens that are checked at once (`speculative`), one text after the
        other: "lookup", which takes what stood in the text before, or a smaller run of the same
        tokenizer; "" writes token by token.

    Raises:
      UserError: settings that do not go together, or a draft of another tokenizer.
    """
    if isinstance(draft, str):
        choose("draft", draft, ("", "lookup"))
    elif draft.tokenizer.fingerprint != writer.tokenizer.fingerprint:
        raise UserError(
            f"draft={draft.folder} knows another tokenizer's ids; take a run of the same tokenizer"
        )
    if draft and num_beams > 1:
        raise UserError(
            f"num_beams={num_beams} draws nothing that a draft could hold; leave it out"
        )
    drawn = dict(top_k=top_k, min_p=min_p, repetition_penalty=repetition_penalty)
    sampling.check(temperature=temperature, top_p=top_p, **drawn)
    for name, nothing in _ASK_FOR_NOTHING.items() if num_beams > 1 else ():
        if drawn[name] != nothing:
            raise UserError(
                f"num_beams={num_beams} searches without {name}={drawn[name]}; leave one of them "
                "out"
            )
    tokenizer, model, params = writer.tokenizer, writer.model, writer.params
    stops = ending.stops(tokenizer, writer.stops.ids, [*writer.stops.strings, *stop])
    before = lambda prompt: prompt if writer.goes_on else ()
    settings = decoding.vocabulary(tokenizer)
    settings |= dict(max_new_tokens=max_new_tokens, stop_ids=stops.ids)
    if num_beams > 1:
        settings |= dict(num_beams=num_beams, length_penalty=length_penalty, early_stopping=False)
        found = beam.search(model, params, ids, **settings)
        samples = [best[:num_samples] for best in found]
    else:
        # A prompt that is given several times gets as many samples.
        repeated = [x for x in ids for _ in range(num_samples)]
        settings |= dict(temperature=temperature, top_p=top_p) | drawn
        befores = [before(x) for x in repeated]
        is_ended = ending.finder(tokenizer, befores, stops.strings, show)
        key = jax.random.key(seed)
        if draft:
            flat = _drafted(model, params, repeated, key, is_ended, draft, settings)
        else:
            settings |= dict(is_ended=is_ended, look_every=1 if show else sampling.BLOCK)
            flat = sampling.sample(model, params, repeated, key, **settings)
        samples = [flat[i : i + num_samples] for i in range(0, len(flat), num_samples)]
    finish = lambda prompt, sample: ending.written(
        tokenizer, before(prompt), sample.tokens, sample.stop_id, stops.strings
    )
    return [
        [finish(prompt, sample) for sample in of_prompt]
        for prompt, of_prompt in zip(ids, samples, strict=True)
    ]


def _drafted(model, params, prompts, key, is_ended, draft, settings) -> list[sampling.Sample]:
    """Does as `sampling.sample`, by drafts."""
    params = unstack_for_decoding(params, model.config.dtype)
    settings = {name: value for name, value in settings.items() if name != "start_id"}
    draws = {name: value for name, value in settings.items() if name != "stop_ids"}
    if not isinstance(draft, str):
        small = draft.model, unstack_for_decoding(draft.params, draft.model.config.dtype)
    copies: Counter[tuple[int, ...]] = Counter()
    samples = []
    for i, prompt in enumerate(prompts):
        copy = copies[tuple(prompt)]
        copies[tuple(prompt)] += 1
        if isinstance(draft, str):
            guess = speculative.Lookup()
        else:
            guess = DraftModel(*small, prompt, key, copy=copy, **draws)
        sample, _ = speculative.sample(
            model,
            params,
            prompt,
            key,
            guess=guess,
            is_ended=functools.partial(is_ended or (lambda index, new: False), i),
            copy=copy,
            **settings,
        )
        samples.append(sample)
    return samples
