"""Extractive question answering: long contexts in windows, and the answers in them.

Dimension key:
  B windows          L positions of a window       C tokens of a context
  A best answers     E lengths of an answer
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.errors import UserError
from lm.tokenizers.framing import Frame
from lm.tokenizers.offsets import Offsets


class Window(NamedTuple):
    """A question with a part of its context, within special tokens; see `Frame`."""

    ids_L: np.ndarray  # int32, as types_L is.
    types_L: np.ndarray
    at: int  # Where in `ids_L` the part begins.
    first: int  # The context's token that stands there.
    end: int  # The context's token behind the part.

    @property
    def shift(self) -> int:
        """Turns a position of the window, by addition, into a token of the context."""
        return self.first - self.at


def windows(
    question_ids: np.ndarray,
    context_ids: np.ndarray,
    *,
    seq_len: int,
    stride: int,
    frame: Frame,
    name: str,
) -> list[Window]:
    """Joins a question with each part of its context; parts overlap, and together are all of it.

    The question `q r` and the context `a b c d e`, with seq_len=8 and stride=2:

        ids_L                       at  first  end
        <s> q r </s> a b c </s>     4   0      3
        <s> q r </s> c d e </s>     4   2      5

    Args:
      question_ids, context_ids: without special tokens.
      seq_len: a window has as many tokens at most.
      stride: windows start so many tokens of the context apart.
      frame: of a pair.
      name: what errors call the question.

    Raises:
      UserError: the question leaves no room, or a stride would leave out tokens between windows.
    """
    at = len(frame.special_ids[0]) + len(question_ids) + len(frame.special_ids[1])
    size = seq_len - len(question_ids) - frame.num_special
    if size < 1:
        raise UserError(
            f"{name}: {len(question_ids)} tokens of question leave no room for the context in "
            f"data.seq_len={seq_len}; shorten the question, or raise it in training"
        )
    num_tokens = len(context_ids)
    if stride < 1 or size < min(stride, num_tokens):
        raise UserError(
            f"{name}: task.stride={stride} must be from 1 to the {size} tokens of context that "
            "stand beside this question; change it, or raise data.seq_len in training"
        )
    found = []
    # The last window is the first that reaches the end; an empty context has one window too.
    for first in range(0, max(num_tokens - size + stride, 1), stride):
        end = min(first + size, num_tokens)
        ids_L, types_L = frame.join([question_ids, context_ids[first:end]])
        found.append(Window(ids_L, types_L, at, first, end))
    return found


def answer_span(
    starts_C: np.ndarray, ends_C: np.ndarray, answer_start: int, answer_text: str
) -> tuple[int, int] | None:
    """Finds the first and the last of the tokens that hold a character of the answer.

    In `a bc d` of tokens `a`, `▁b`, `c`, `▁d`, the answer "bc" at 2 is (1, 2), and so is "bc ".
    None where the answer is nothing but spaces, or the tokenizer dropped all of it.

    Args:
      starts_C, ends_C: the characters that each token stands for; see `Offsets`.
      answer_start: index of the answer's first character in the context.
      answer_text: the answer as it stands there.
    """
    text = answer_text.strip()  # A space at its end is held by the token behind it.
    start = answer_start + len(answer_text) - len(answer_text.lstrip())
    end = start + len(text)
    # Half-open ranges that overlap; the last term drops tokens that stand for no character.
    at = np.flatnonzero((starts_C < end) & (ends_C > start) & (starts_C < ends_C))
    return (int(at[0]), int(at[-1])) if text and len(at) else None


def span_in_window(
    window: Window, span: tuple[int, int] | None, *, none: int = 0
) -> tuple[int, int]:
    """Gives the positions of an answer's first and last token in a window.

    Both are `none` where there is no answer, or the window does not hold all of it.
    """
    # Half an answer would teach a wrong end.
    if span is None or span[0] < window.first or span[1] >= window.end:
        return none, none
    return span[0] - window.shift, span[1] - window.shift


def span_characters(context: str, offsets: Offsets, first: int, last: int) -> tuple[int, int]:
    """Finds where in the context the text of tokens `first` to `last` starts and ends."""
    start = int(offsets.starts[first])
    text = context[start : offsets.ends[last]]
    start += len(text) - len(text.lstrip())  # Spaces may be parts of tokens, but not of an answer.
    return start, start + len(text.strip())


class BestSpans(NamedTuple):
    """The best answers in each of some windows, best first, and the score of there being none."""

    starts_BA: jax.Array  # Positions of the first token, and of the last.
    ends_BA: jax.Array
    scores_BA: jax.Array  # -inf where a window has fewer answers than A.
    none_B: jax.Array  # The score of the position that stands for none.


def best_spans(
    start_BL: jax.Array,
    end_BL: jax.Array,
    at_B: jax.Array,
    sizes_B: jax.Array,
    *,
    max_length: int,
    num_best: int,
    none_at_B: jax.Array | None = None,
) -> BestSpans:
    """Ranks the answers of each window by start's logit plus end's (Devlin et al. 2019, 4.2, 4.3).

    Jittable; each window's result depends on nothing but its own logits, and of equal scores the
    earlier answer is first, then the shorter.

    Args:
      start_BL, end_BL: any float type; the arithmetic is float32.
      at_B: where the context begins in a window.
      sizes_B: how many tokens of it there are; answers are of these alone.
      max_length: tokens of the longest answer.
      num_best: A; there are fewer if L x max_length is less.
      none_at_B: the position that stands for no answer; None means 0, the bos token.
    """
    L = start_BL.shape[1]
    start_BL, end_BL = start_BL.astype(jnp.float32), end_BL.astype(jnp.float32)
    none_B1 = jnp.zeros_like(at_B)[:, None] if none_at_B is None else none_at_B[:, None]
    none_scores_B1 = jnp.take_along_axis(start_BL, none_B1, 1)
    none_scores_B1 += jnp.take_along_axis(end_BL, none_B1, 1)
    place_BL = jnp.arange(L)[None] - at_B[:, None]
    in_context_BL = (place_BL >= 0) & (place_BL < sizes_B[:, None])
    start_BL = jnp.where(in_context_BL, start_BL, -jnp.inf)
    end_BL = jnp.where(in_context_BL, end_BL, -jnp.inf)
    max_length = min(max_length, L)
    # Scores by start and length, L x E and not L x L: the row of a start gathers the next E ends.
    # Behind the last position stand E ends of -inf, so that no gather is clamped into the window.
    padded_BL = jnp.pad(end_BL, ((0, 0), (0, max_length)), constant_values=-jnp.inf)
    end_at_LE = jnp.arange(L)[:, None] + jnp.arange(max_length)[None]
    scores_BLE = start_BL[:, :, None] + padded_BL[:, end_at_LE]
    # To top_k, -0.0 is less than 0.0, and the tie would not go to the earlier answer.
    scores_BLE = jnp.where(scores_BLE == 0, 0.0, scores_BLE)
    num_best = min(num_best, L * max_length)
    # Flat, a start is before the next and a shorter before a longer, as top_k breaks ties.
    scores_BA, index_BA = jax.lax.top_k(scores_BLE.reshape(len(scores_BLE), -1), num_best)
    starts_BA = index_BA // max_length
    return BestSpans(starts_BA, starts_BA + index_BA % max_length, scores_BA, none_scores_B1[:, 0])


class Answer(NamedTuple):
    """A candidate: its tokens in the context, first and last, and its score."""

    first: int
    last: int
    score: float


def best_answers(
    shifts: Sequence[int], spans: BestSpans, *, num_best: int
) -> tuple[list[Answer], float]:
    """Ranks the answers to one question over all of its windows, and gives the score of none.

    The caller compares the two (Devlin et al. 2019, section 4.3).

    Args:
      shifts: of the question's windows; see `Window`.
      spans: a row for each window.
      num_best: of each window, `spans` must hold as many, if there are.
    """
    scores: dict[tuple[int, int], float] = {}
    for shift, starts_A, ends_A, scores_A in zip(shifts, *spans[:3], strict=True):
        for start, end, score in zip(starts_A, ends_A, scores_A, strict=True):
            if np.isfinite(score):
                key = int(start) + int(shift), int(end) + int(shift)
                # Windows overlap: an answer that several hold has its best score.
                scores[key] = max(float(score), scores.get(key, -np.inf))
    answers = [Answer(*key, score) for key, score in scores.items()]
    answers.sort(key=lambda answer: (-answer.score, answer.first, answer.last))
    # None has its least score, since what one window does not hold, another may.
    return answers[:num_best], float(np.min(spans.none_B))
