"""Chooses among given answers by how likely each is as a whole, behind its prompt.

Every answer is scored, so that nothing is lost by a first token that leads nowhere. The likelihood
is that of the answer's tokens, as lm_eval scores them; in a chat the token that ends it counts too.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from lm.generation.requests import FinishEvent, GenerationRequest, PromptEvent, Sampling, TokenEvent
from lm.serve.mailbox import Numbered
from lm.serve.refusal import Refusal, invalid
from lm.serve.served_model import ServedModel

Pair = tuple[tuple[int, ...], tuple[int, ...]]  # Tokens of a prompt, and of an answer.


def plan(
    model: ServedModel,
    pairs: Sequence[Sequence[Pair]],
    answers: Sequence[str],
    sampling: Sampling,
    num_choices: int,
    max_tokens: int | None,
) -> tuple[list[GenerationRequest], Callable[[Sequence[Numbered]], list[Numbered]]]:
    """Returns what scores the answers, and what makes of the scores events of those chosen.

    Args:
      model: scores.
      pairs: of each prompt, one for each answer.
      answers: their texts.
      sampling: with `temperature` 0 the likeliest is chosen; else one is drawn with probability
        in proportion to likelihood^(1 / temperature).
      num_choices: for each prompt.
      max_tokens: that an answer may have; None for any number.

    Raises:
      Refusal: an answer is too long, has no token, or all are more than may be asked at once.
    """
    if model.reader.has_encoder:
        raise Refusal(
            "guided_choice is not supported by this model, which has an encoder; leave it out",
            param="guided_choice",
            code="unsupported_parameter",
        )
    flat = [pair for of_prompt in pairs for pair in of_prompt]
    if len(flat) > model.max_prompts:
        raise invalid(
            "guided_choice",
            f"gives {len(answers)} answers to {len(pairs)} prompts; together {model.max_prompts} "
            "may be scored at once",
        )
    for (before, behind), answer in zip(flat, [*answers] * len(pairs), strict=True):
        most = max_tokens or model.max_len
        if not 1 <= len(behind) <= most:
            num = f"has {answer!r:.60} of {len(behind)} tokens"
            raise invalid("guided_choice", f"{num}, and may have 1 to max_tokens={most}")
        model.num_new(len(before), len(behind), None, "guided_choice")
    requests = [
        GenerationRequest(before + behind, 0, sampling, echo_logprobs=True, num_context=len(before))
        for before, behind in flat
    ]

    def settle(events: Sequence[Numbered]) -> list[Numbered]:
        prompts = {i: event for i, event in events if isinstance(event, PromptEvent)}
        ends = {i: event.reason for i, event in events if isinstance(event, FinishEvent)}
        settled: list[Numbered] = []
        for i in range(len(pairs)):
            indices = range(i * len(answers), (i + 1) * len(answers))
            unscored = [ends[k] for k in indices if k not in prompts]
            scores = [] if unscored else [_score(prompts[k], flat[k]) for k in indices]
            for j in range(num_choices):
                if unscored:  # They were ended before it came to them.
                    settled.append((i, FinishEvent(j, "", unscored[0])))
                    continue
                chosen = _choose(scores, sampling, (i, j))
                k = indices[chosen]
                settled += [(i, e) for e in _events(prompts[k], flat[k], answers[chosen], j)]
        return settled

    return requests, settle


def _score(event: PromptEvent, pair: Pair) -> float:
    return math.fsum(event.logprobs[len(pair[0]) :])


def _choose(scores: Sequence[float], sampling: Sampling, draw: tuple[int, int]) -> int:
    """Chooses by scores in nats; `draw` tells draws of one seed apart."""
    best = max(scores)
    if not sampling.temperature or best == -math.inf:
        return scores.index(best)
    weights = np.exp((np.array(scores) - best) / max(sampling.temperature, 1e-6))
    seed = None if sampling.seed is None else (sampling.seed % 2**64, *draw)
    return int(np.random.default_rng(seed).choice(len(scores), p=weights / weights.sum()))


def _events(event: PromptEvent, pair: Pair, answer: str, choice: int):
    """Yields the events of an answer, as if it had been written."""
    start = len(pair[0])
    told = zip(pair[1], event.logprobs[start:], event.tops[start:], strict=True)
    for i, (token, logprob, top) in enumerate(told):
        yield TokenEvent(choice, token, "" if i else answer, logprob, top)
    yield FinishEvent(choice, "", "stop")
