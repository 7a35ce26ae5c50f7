"""What may be asked of a generation service, and what it tells while it writes.

A `GenerationService(engine, tokenizer, max_waiting=...)` of lm.generation.service, which takes an
`Engine` of lm.generation.engine, is used by one or many threads:

    submit(request, emit) -> Handle    # `emit` is called by the service's own thread, and must not
                                       # wait; `Handle.cancel()` may be called at any time, by any
                                       # thread. Raises QueueFull where too many wait, NotServing
                                       # after `drain` and `close`, and UserError for a request that
                                       # this model cannot take.
    warm() -> None                     # Compiles all that can occur; nothing is compiled later.
    stats() -> dict                    # waiting, active, slots; since the start: tokens,
                                       # prompt_tokens, steps, seconds; cache_bytes
    drain(seconds) -> None             # Takes no more; ends what is left after so long ("length").
    close() -> None                    # Ends all ("cancelled"), and its thread.

Of each choice come token events and then one finish event. A prompt event, where it was asked for,
comes before all others.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Says how tokens are drawn; `lm.generation.sampling` has the formulas.

    temperature: divides the logits; 0 takes the likeliest token.
    top_k: draws among the k likeliest; 0 among all.
    top_p: draws among the likeliest that together reach this probability; 1 among all.
    min_p: draws among those with at least this share of the likeliest one's probability.
    repetition_penalty: divides positive logits of tokens that stand in the prompt or were written,
      and multiplies negative ones; 1 for none.
    seed: the same seed draws the same tokens; None for another one each time.
    num_logprobs: how many of the likeliest tokens are told with each token; with 0 its own
      log-probability is told all the same.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    num_logprobs: int = 0


@dataclasses.dataclass(frozen=True)
class GenerationRequest:
    """Asks for `num_choices` texts behind one prompt.

    prompt: token ids, at least one.
    max_new_tokens: of each choice; 0 only scores the prompt.
    stops: texts that end a choice, and are not part of it.
    stop_ids: tokens that do, such as the end of text; with `stops`, what `ending.stops` gives.
    goes_on: the text goes on from the prompt's, whose last space it may need, as in
      `writing.Writer`; False for an answer.
    echo_logprobs: also tells how likely each token of the prompt is.
    num_context: tokens that the prompt begins with and of which that is not told; what many prompts
      begin with alike is then read once, where it was seen to change no bit.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling = Sampling()
    stops: tuple[str, ...] = ()
    num_choices: int = 1
    echo_logprobs: bool = False
    num_context: int = 0
    stop_ids: tuple[int, ...] = ()
    goes_on: bool = False


Top = tuple[tuple[int, float], ...]  # The likeliest tokens and their log-probabilities.


@dataclasses.dataclass(frozen=True)
class TokenEvent:
    """Tells a token that was written. One that ends the choice by its id, as the end of text, comes
    with the end, and is no part of the text; one that completes a stop comes as all others.

    text: what is now certain of the choice's text and was not told; often empty, while half a
      character or a possible stop is held back.
    logprob, top: of the model's own distribution, before temperature and all else; the first is
      never None. A log-probability may be -inf.
    """

    choice: int
    token: int
    text: str
    logprob: float | None
    top: Top


@dataclasses.dataclass(frozen=True)
class FinishEvent:
    """Ends a choice.

    text: what was held back and belongs to it.
    reason: "stop", "length", "cancelled" or "error".
    token: that ended it by its id, if one did.
    """

    choice: int
    text: str
    reason: str
    token: TokenEvent | None = None


@dataclasses.dataclass(frozen=True)
class PromptEvent:
    """Tells of each token of the prompt its log-probability, and what was likeliest in its place.

    Of the first token, which nothing precedes, and of a context they are None and empty.
    """

    logprobs: tuple[float | None, ...]
    tops: tuple[Top, ...]


Event = TokenEvent | FinishEvent | PromptEvent


class QueueFull(Exception):
    """Says that a request was not taken, since too many wait."""

    def __init__(self, retry_after_seconds: float):
        super().__init__(f"too many requests wait; try again in {retry_after_seconds:.0f} s")
        self.retry_after_seconds = retry_after_seconds


class NotServing(Exception):
    """Says that a request was not taken, since the service ends, or has failed."""
