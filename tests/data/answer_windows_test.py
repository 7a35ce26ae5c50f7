import functools

import jax
import numpy as np
import pytest

from lm.data import answer_windows as windows_lib
from lm.data.answer_windows import (
    Answer,
    BestSpans,
    answer_span,
    best_answers,
    best_spans,
    span_characters,
    span_in_window,
    windows,
)
from lm.errors import UserError
from lm.tokenizers import framing
from tests.tiny_tokenizers import KINDS, tokenizer_of

BOS, EOS = 1, 2
CONTEXTS = [
    "The thing, isn't it?",
    "北京是中国的首都。",
    "東京の「ガラス」ｶﾞ",
    "Die Straße in Mün",
    "هي مُحَمَّد كتب",
    "👩‍👧 👋🏽 ❤\ufe0f🏳️‍🌈!",
    "cafe\u0301s a\u0308\u0323b ﬁ",
    "  two\t\n lines\u3000x ",
    "สวัสดี ครับ",
]
make = functools.partial(windows, frame=framing.plain(BOS, EOS, 2), name="dev.json:7")
best_spans = jax.jit(best_spans, static_argnames=("max_length", "num_best"))


def test_windows_as_a_table():
    made = make(np.array([10, 11]), np.array([20, 21, 22, 23, 24]), seq_len=8, stride=2)

    assert [(w.ids_L.tolist(), *w[2:]) for w in made] == [
        ([BOS, 10, 11, EOS, 20, 21, 22, EOS], 4, 0, 3),
        ([BOS, 10, 11, EOS, 22, 23, 24, EOS], 4, 2, 5),
    ]
    assert made[0].ids_L.dtype == made[0].types_L.dtype == np.int32
    assert made[0].types_L.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    (one,) = make(
        np.array([10]), np.array([20]), seq_len=5, stride=50, frame=framing.plain(None, EOS, 2)
    )
    assert (one.ids_L.tolist(), *one[2:]) == ([10, EOS, 20, EOS], 2, 0, 1)
    (empty,) = make(np.array([10]), np.array([], np.int32), seq_len=9, stride=1)
    assert (empty.ids_L.tolist(), *empty[2:]) == ([BOS, 10, EOS, EOS], 3, 0, 0)


@pytest.mark.parametrize("seed", range(50))
def test_windows_hold_all_of_the_context_and_no_more_than_fits(seed):
    rng = np.random.default_rng(seed)
    question_ids, context_ids = (
        np.arange(rng.integers(1, 5)),
        np.arange(100, rng.integers(100, 130)),
    )
    size = rng.integers(1, 20)
    stride = rng.integers(1, size + 1)
    seq_len = len(question_ids) + 3 + size
    made = make(question_ids, context_ids, seq_len=seq_len, stride=stride)

    held = set()
    for i, window in enumerate(made):
        held |= set(range(window.first, window.end))
        assert len(window.ids_L) <= seq_len
        np.testing.assert_array_equal(
            window.ids_L[window.at : -1], context_ids[window.first : window.end]
        )
        assert window.first == i * stride
        assert (window.end - window.first == size) or window is made[-1]
    assert held == set(range(len(context_ids)))
    if len(made) > 1:  # None is in vain.
        assert made[-2].end < len(context_ids)


@pytest.mark.parametrize(
    "seq_len, stride, says",
    [
        (6, 1, "dev.json:7: 3 tokens of question leave no room .* data.seq_len=6"),
        (10, 5, "dev.json:7: task.stride=5 must be from 1 to the 4 tokens"),
        (10, 0, "dev.json:7: task.stride=0"),
    ],
)
def test_windows_that_cannot_be_are_refused(seq_len, stride, says):
    with pytest.raises(UserError, match=says) as error:
        make(np.arange(3), np.arange(20), seq_len=seq_len, stride=stride)
    assert "\n" not in str(error.value)


# Answers ---------------------------------------------------------------------------------------


def cuts(text, starts, ends, at):
    """Whether some token holds characters, beside spaces, on both sides of `at`."""
    halves = [(text[s:at], text[at:e]) for s, e in zip(starts, ends, strict=True) if s < at < e]
    return any(left.strip() and right.strip() for left, right in halves)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_of_an_answer_are_its_characters(kind):
    num_exact = 0
    for context in CONTEXTS:
        offsets = tokenizer_of(kind).encode_with_offsets(context)
        _, starts, ends = offsets
        for start in range(len(context)):
            for end in range(start + 1, len(context) + 1):
                answer = context[start:end]
                span = answer_span(starts, ends, start, answer)
                if not answer.strip():
                    assert span is None
                    continue
                first, last = span
                text = context[slice(*span_characters(context, offsets, first, last))]
                assert answer.strip() in text
                assert starts[first] <= start + len(answer) - len(answer.lstrip())
                assert ends[last] >= start + len(answer.rstrip())
                exact = not cuts(context, starts, ends, start) and not cuts(
                    context, starts, ends, end
                )
                assert exact or kind != "bytes"
                if exact:
                    assert text == answer.strip()
                    num_exact += 1
    assert num_exact > 50


def test_answers_as_a_table():
    # The tokens of "a bc d": "a", " b", "c", " d".
    starts_C, ends_C = np.array([0, 1, 3, 4]), np.array([1, 3, 4, 6])
    span = functools.partial(answer_span, starts_C, ends_C)
    assert span(2, "bc") == (1, 2)
    assert span(0, "a") == (0, 0)
    assert span(5, "d") == (3, 3)
    assert span(0, "a bc d") == (0, 3)
    assert span(1, " bc ") == (1, 2)
    assert span(9, "x") is None
    assert span(4, " ") is None


def test_an_answer_that_a_window_does_not_hold_is_none():
    window = windows_lib.Window(*np.zeros((2, 12), np.int32), at=4, first=10, end=17)
    assert span_in_window(window, (10, 16)) == (4, 10)
    assert span_in_window(window, (12, 12)) == (6, 6)
    for span in [(9, 11), (16, 17), (2, 3), (9, 17), None]:
        assert span_in_window(window, span) == (0, 0)
        assert span_in_window(window, span, none=11) == (11, 11)


def random_logits(seed, num_windows=5, length=17):
    """Half of the logits are whole numbers, so that many scores are equal."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, num_windows, length)).astype(np.float32)
    logits = np.where(rng.random(logits.shape) < 0.5, np.round(logits), logits)
    at_B = rng.integers(1, 8, num_windows)
    sizes_B = rng.integers(0, length - at_B)
    return *logits, at_B, sizes_B


def slow_spans(start_L, end_L, at, size, max_length, num_best):
    """(start, end, score) by two loops over the positions of one window."""
    found = []
    for start in range(at, at + size):
        for end in range(start, min(start + max_length, at + size)):
            found.append((start, end, start_L[start] + end_L[end]))
    return sorted(found, key=lambda span: (-span[2], *span[:2]))[:num_best]


@pytest.mark.parametrize("max_length, num_best", [(4, 6), (1, 3), (30, 40)])
@pytest.mark.parametrize("seed", range(5))
def test_the_best_spans_are_those_of_two_loops(seed, max_length, num_best):
    start_BL, end_BL, at_B, sizes_B = random_logits(seed)
    spans = best_spans(start_BL, end_BL, at_B, sizes_B, max_length=max_length, num_best=num_best)

    for b, (start_L, end_L) in enumerate(zip(start_BL, end_BL, strict=True)):
        expected = slow_spans(start_L, end_L, at_B[b], sizes_B[b], max_length, num_best)
        rows = zip(spans.starts_BA[b], spans.ends_BA[b], spans.scores_BA[b], strict=True)
        found = [tuple(map(float, row)) for row in rows if np.isfinite(row[2])]
        assert found == [tuple(map(float, row)) for row in expected]
        assert spans.none_B[b] == start_L[0] + end_L[0]


def test_the_position_of_none_may_be_another():
    start_BL, end_BL, at_B, sizes_B = random_logits(0)
    none_at_B = at_B + sizes_B
    spans = best_spans(
        start_BL, end_BL, at_B, sizes_B, max_length=4, num_best=6, none_at_B=none_at_B
    )
    rows = np.arange(len(at_B))
    np.testing.assert_array_equal(spans.none_B, start_BL[rows, none_at_B] + end_BL[rows, none_at_B])


def test_a_window_alone_gives_what_it_gives_in_a_batch_however_padded():
    start_BL, end_BL, at_B, sizes_B = random_logits(3)
    settings = dict(max_length=4, num_best=6)
    together = best_spans(start_BL, end_BL, at_B, sizes_B, **settings)
    pad = lambda x_BL: np.pad(x_BL, ((0, 0), (0, 6)), constant_values=100.0)
    for b in range(5):
        alone = best_spans(
            pad(start_BL[b : b + 1]), pad(end_BL[b : b + 1]), at_B[[b]], sizes_B[[b]], **settings
        )
        there_A = np.isfinite(together.scores_BA[b])
        for x, y in zip(alone[:3], together[:3], strict=True):
            np.testing.assert_array_equal(x[0][there_A], y[b][there_A])
        np.testing.assert_array_equal(np.isfinite(alone.scores_BA[0]), there_A)
        assert alone.none_B[0] == together.none_B[b]


@pytest.mark.parametrize("seed", range(5))
def test_the_best_answers_are_those_of_all_windows(seed):
    made = make(np.arange(3), np.arange(30), seq_len=17, stride=4)
    start_BL, end_BL, *_ = random_logits(seed, len(made))
    at_B = np.array([window.at for window in made])
    sizes_B = np.array([window.end - window.first for window in made])
    spans = best_spans(start_BL, end_BL, at_B, sizes_B, max_length=4, num_best=6)
    answers, none = best_answers([w.shift for w in made], jax.device_get(spans), num_best=6)

    best = {}
    for b, window in enumerate(made):
        for start, end, score in slow_spans(start_BL[b], end_BL[b], at_B[b], sizes_B[b], 4, None):
            key = start - window.at + window.first, end - window.at + window.first
            best[key] = max(score, best.get(key, -np.inf))
    expected = sorted(
        (Answer(*key, float(score)) for key, score in best.items()),
        key=lambda a: (-a.score, *a[:2]),
    )
    assert answers == expected[:6]
    assert none == min(start_BL[:, 0] + end_BL[:, 0])
    reverse = lambda x: x[::-1]
    backwards = BestSpans(*map(reverse, jax.device_get(spans)))
    assert best_answers([w.shift for w in reverse(made)], backwards, num_best=6) == (answers, none)


def test_a_context_of_nothing_has_no_answers():
    made = make(np.arange(3), np.arange(0), seq_len=17, stride=4)
    start_BL, end_BL, *_ = random_logits(0, 1)
    spans = best_spans(start_BL, end_BL, np.array([5]), np.array([0]), max_length=4, num_best=6)
    answers, none = best_answers([w.shift for w in made], jax.device_get(spans), num_best=6)
    assert answers == [] and np.isfinite(none)


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece nfkc", "bert"])
@pytest.mark.parametrize("context", CONTEXTS[1:7])
def test_an_answer_comes_back_from_its_window(kind, context):
    answer = context[2:5].strip()
    start = context.index(answer)
    tokenizer = tokenizer_of(kind)
    offsets = tokenizer.encode_with_offsets(context)
    question_ids = tokenizer.encode_batch(["?"])[0]
    made = make(question_ids, offsets.ids, seq_len=len(question_ids) + 3 + 20, stride=7)
    span = answer_span(offsets.starts, offsets.ends, start, answer)

    logits_2BL = np.zeros((2, 8, 48), np.float32)  # One shape for all, so that it compiles once.
    at_B, sizes_B = np.zeros((2, 8), np.int32)
    for b, window in enumerate(made):
        at = span_in_window(window, span)
        logits_2BL[[0, 1], b, at] = 5.0
        at_B[b], sizes_B[b] = window.at, window.end - window.first
    spans = jax.device_get(best_spans(*logits_2BL, at_B, sizes_B, max_length=20, num_best=1))
    spans = BestSpans(*(x[: len(made)] for x in spans))
    ((first, last, score),), none = best_answers([w.shift for w in made], spans, num_best=1)
    assert (first, last, score) == (*span, 10.0)
    assert none == 10.0 * all(span_in_window(w, span) == (0, 0) for w in made)
    start, end = span_characters(context, offsets, first, last)
    assert answer in context[start:end]
