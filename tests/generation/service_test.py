"""One thread writes for many that ask, cancel, and make mistakes."""

import dataclasses
import threading
import time

import jax
import numpy as np
import pytest

from lm.errors import UserError
from lm.generation import ending, sampling
from lm.generation.engine import Engine
from lm.generation.requests import (
    FinishEvent,
    GenerationRequest,
    NotServing,
    PromptEvent,
    QueueFull,
    Sampling,
    TokenEvent,
)
from lm.generation.service import GenerationService
from lm.models.families import param_shapes
from lm.models.gpt2 import GPT2
from lm.tokenizers.tokenizers import ByteTokenizer
from tests import tiny
from tests.generation.engine_test import nothing_compiled

TOKENIZER = ByteTokenizer()
MODEL = GPT2(dataclasses.replace(tiny.CONFIG, vocab_size=TOKENIZER.vocab_size, max_len=64))
PROMPT = tuple(TOKENIZER.encode_batch(["the thing 北"])[0].tolist())
LONG = GenerationRequest(PROMPT, 50, Sampling(seed=0))


class Asked:
    """What a request gets; it may be waited for."""

    def __init__(self, service, request, on_event=lambda asked, event: None):
        self.request, self.events, self.on_event = request, [], on_event
        self.steps, self._service = [], service
        self._left, self._done = request.num_choices, threading.Event()
        self.handle = service.submit(request, self._emit)

    def _emit(self, event):
        self.events.append(event)
        self.steps.append(self._service.stats()["steps"])
        if isinstance(event, FinishEvent):
            self._left -= 1
            if self._left == 0:
                self._done.set()
        self.on_event(self, event)

    def wait(self):
        assert self._done.wait(60)
        return self

    def of(self, choice):
        return [e for e in self.events if getattr(e, "choice", None) == choice]

    def text(self, choice=0):
        return "".join(event.text for event in self.of(choice))

    def tokens(self, choice=0):
        return [event.token for event in self.of(choice) if isinstance(event, TokenEvent)]

    def reason(self, choice=0):
        *tokens, finish = self.of(choice)
        assert all(isinstance(event, TokenEvent) for event in tokens)
        return finish.reason


@pytest.fixture(scope="module")
def params(random_like):
    return random_like(param_shapes(MODEL), scale=0.7)


@pytest.fixture(scope="module")
def engine(params):
    engine = Engine(
        MODEL,
        params,
        vocab_size=TOKENIZER.vocab_size,
        start_id=0,
        num_texts=4,
        max_len=64,
        chunk_len=32,
        shortest=32,
        prefix_bytes=100_000,
    )
    engine.warm()
    return engine


@pytest.fixture
def service(engine):
    service = GenerationService(engine, TOKENIZER, max_waiting=30, tokens_a_turn=32)
    yield service
    service.close()
    assert not engine._texts


def samples(params, request):
    """What is written of it without a service."""
    how = dataclasses.asdict(request.sampling)
    how = {name: how[name] for name in how if name not in ("seed", "num_logprobs")}
    found = sampling.sample(
        MODEL,
        params,
        [request.prompt] * request.num_choices,
        jax.random.key(request.sampling.seed),
        vocab_size=TOKENIZER.vocab_size,
        max_new_tokens=request.max_new_tokens,
        stop_ids=request.stop_ids,
        **how,
    )
    before = request.prompt if request.goes_on else ()
    return [
        ending.written(TOKENIZER, before, one.tokens, one.stop_id, request.stops) for one in found
    ]


def requests(num):
    rng = np.random.default_rng(0)
    made = []
    for i in range(num):
        prompt = tuple(rng.integers(3, 259, int(rng.integers(1, 44))).tolist())
        how = Sampling(temperature=[0.0, 1.0, 0.7][i % 3], top_p=[1.0, 0.9][i % 2], seed=i)
        made.append(
            GenerationRequest(
                prompt,
                int(rng.integers(1, 20)),
                how,
                stops=("a", "\ufffdz", "th")[: i % 4],
                num_choices=1 + i % 3,
                stop_ids=tuple(rng.integers(0, 259, 20).tolist()),
                goes_on=i % 2 == 0,
            )
        )
    return made


def test_streamed_texts_are_those_that_are_written_without_a_service(service, params):
    asked = [Asked(service, request) for request in requests(12)]
    written = [samples(params, one.request) for one in asked]

    for one, texts in zip(asked, written, strict=True):
        one.wait()
        for choice, expected in enumerate(texts):
            assert one.text(choice) == expected.text
            assert len(one.tokens(choice)) == expected.num_tokens
            assert one.reason(choice) == expected.finish_reason
    reasons = [text.finish_reason for texts in written for text in texts]
    assert len(set(reasons)) == 2


def test_a_stop_string_ends_a_text_wherever_tokens_end(service):
    request = dataclasses.replace(LONG, max_new_tokens=30)
    whole = Asked(service, request).wait().text()
    assert len(whole) > 8
    stops = [whole[i : i + size] for size in (1, 2, 5) for i in range(1, 9, 3)]

    asked = [Asked(service, dataclasses.replace(request, stops=(stop,))) for stop in stops]

    for stop, one in zip(stops, asked, strict=True):
        assert one.wait().text() == whole[: whole.find(stop)]
        assert one.reason() == "stop"


def test_what_might_have_become_a_stop_string_belongs_to_a_text_that_ends_otherwise(service):
    request = dataclasses.replace(LONG, max_new_tokens=30)
    one = Asked(service, request).wait()
    whole, tokens = one.text(), one.tokens()
    at = next(i for i in range(4, 30) if tokens[i] not in tokens[:i])
    shown = dataclasses.replace(request, max_new_tokens=at)
    shown = Asked(service, shown).wait().text()
    stops = (shown[-1] + "never there",)

    ended = Asked(service, dataclasses.replace(request, stops=stops, stop_ids=(tokens[at],))).wait()

    assert (ended.text(), ended.reason()) == (shown, "stop")
    assert ended.tokens() == tokens[:at]
    assert whole.startswith(shown)
    assert ended.events[-1].text == shown[-1]


def test_choices_do_not_depend_on_how_many_there_are(service):
    ask = lambda num: Asked(service, dataclasses.replace(LONG, max_new_tokens=8, num_choices=num))
    four, one, two = (ask(num).wait() for num in (4, 1, 2))

    texts = [four.tokens(choice) for choice in range(4)]

    assert one.tokens() == texts[0]
    assert [two.tokens(choice) for choice in range(2)] == texts[:2]
    assert len({tuple(tokens) for tokens in texts}) == 4
    drawn = dataclasses.replace(LONG, sampling=Sampling(seed=None))
    assert Asked(service, drawn).wait().tokens() != Asked(service, drawn).wait().tokens()


def test_more_choices_than_slots_are_written_one_after_the_other(service, params):
    request = dataclasses.replace(LONG, max_new_tokens=5, num_choices=7)

    one = Asked(service, request).wait()

    assert [one.text(choice) for choice in range(7)] == [x.text for x in samples(params, request)]


def test_whoever_leaves_frees_a_slot_within_a_step(service):
    def leave(asked, event):
        if len(asked.events) == 5:
            asked.handle.cancel()

    gone = Asked(service, LONG, leave)
    others = [Asked(service, LONG) for _ in range(3)]
    waiting = Asked(service, dataclasses.replace(LONG, max_new_tokens=1))
    for one in (gone, waiting, *others):
        one.wait()

    assert gone.reason() == "cancelled"
    assert len(gone.tokens()) == 5
    assert waiting.steps[0] - gone.steps[4] <= 1
    assert {one.reason() for one in (waiting, *others)} == {"length"}


def test_whoever_leaves_while_it_waits_is_not_written(service):
    first = [Asked(service, LONG) for _ in range(4)]
    gone = Asked(service, LONG)
    gone.handle.cancel()
    gone.wait()
    gone.handle.cancel()

    assert [type(event) for event in gone.events] == [FinishEvent]
    for one in first:
        assert len(one.wait().tokens()) == 50
    assert len(gone.events) == 1


def test_too_many_are_told_when_to_come_again(engine):
    service = GenerationService(engine, TOKENIZER, max_waiting=2)
    begun = threading.Event()
    held = Asked(service, dataclasses.replace(LONG, num_choices=4), lambda *_: begun.wait(60))
    while service.stats()["waiting"]:
        pass
    waiting = [Asked(service, LONG) for _ in range(2)]

    with pytest.raises(QueueFull) as caught:
        Asked(service, LONG)

    assert caught.value.retry_after_seconds >= 1
    stats = service.stats()
    assert (stats["waiting"], stats["slots"]) == (2, 4)
    begun.set()
    for one in (held, *waiting):
        one.wait()
    assert service.stats()["tokens"] == 6 * 50
    service.close()


@pytest.mark.parametrize("how", ["drain", "close"])
def test_what_is_not_written_in_time_is_ended(engine, how):
    service = GenerationService(engine, TOKENIZER, max_waiting=9)
    may_go_on = threading.Event()
    asked = [
        Asked(service, dataclasses.replace(LONG, max_new_tokens=num), lambda *_: may_go_on.wait(60))
        for num in (1, *[50] * 6)
    ]
    end = service.close if how == "close" else lambda: service.drain(0.0)
    while not asked[0].events:  # Of which the thread cannot get rid before it may go on.
        pass
    ending = threading.Thread(target=end)
    ending.start()
    while service._end_all is None:
        pass
    may_go_on.set()
    ending.join(60)

    reasons = [one.wait().reason() for one in asked]
    assert reasons[0] == "length"
    assert set(reasons[1:]) == {"length" if how == "drain" else "cancelled"}
    assert all(len(one.tokens()) < 50 for one in asked)
    with pytest.raises(NotServing, match="shutting down"):
        Asked(service, LONG)
    service.close()


def test_a_drained_service_has_written_all_that_was_asked(engine):
    service = GenerationService(engine, TOKENIZER, max_waiting=9)
    told = []

    def hear(one, event):
        if isinstance(event, FinishEvent):
            one.handle.cancel()  # Which changes nothing, and wakes whoever waits.
            time.sleep(0.02)
            told.append(one)

    asked = [Asked(service, LONG, hear) for _ in range(6)]

    service.drain(60)

    assert sorted(map(id, told)) == sorted(map(id, asked))
    assert [len(one.tokens()) for one in asked] == [50] * 6
    service.close()


def test_a_mistake_of_one_is_not_that_of_others(service, capsys):
    def fail(asked, event):
        raise ValueError("my mistake")

    wrong = Asked(service, LONG, fail)
    right = Asked(service, LONG)

    assert right.wait().reason() == "length"
    assert wrong.wait().reason() == "cancelled"
    assert "my mistake" in capsys.readouterr().err


def test_all_hear_of_an_engine_that_fails(params, capsys):
    engine = Engine(MODEL, params, vocab_size=259, start_id=0, num_texts=1, max_len=64, shortest=64)
    service = GenerationService(engine, TOKENIZER, max_waiting=9)
    engine.step = lambda: 1 // 0

    asked = [Asked(service, LONG) for _ in range(3)]

    assert [one.wait().reason() for one in asked] == ["error"] * 3
    with pytest.raises(NotServing, match="ZeroDivisionError"):
        Asked(service, LONG)
    service.drain(60)
    service.close()
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_the_prompt_is_scored_before_anything_is_written(service):
    how = Sampling(temperature=0.0, num_logprobs=2)
    request = GenerationRequest(PROMPT, 3, how, echo_logprobs=True, num_choices=2)
    longer = GenerationRequest((*PROMPT, 5), 0, how, echo_logprobs=True)

    written, only = Asked(service, request).wait(), Asked(service, longer).wait()

    event = written.events[0]
    assert isinstance(event, PromptEvent)
    assert not any(isinstance(other, PromptEvent) for other in written.events[1:])
    assert event.logprobs[0] is None
    assert event.tops[0] == ()
    assert len(event.logprobs) == len(event.tops) == len(PROMPT)
    assert only.events == [
        PromptEvent(only.events[0].logprobs, only.events[0].tops),
        FinishEvent(0, "", "length"),
    ]
    assert only.events[0].logprobs[1:-1] == event.logprobs[1:]
    # What follows the prompt is as likely there as where it is written.
    first = next(event for event in written.events if isinstance(event, TokenEvent))
    np.testing.assert_allclose(first.top, only.events[0].tops[-1], rtol=1e-5)


def test_of_a_context_nothing_is_told_and_it_is_read_once(service):
    prompt = tuple(range(3, 43))
    asked = [GenerationRequest((*prompt, *more), 0, echo_logprobs=True) for more in ((5,), (6, 7))]
    wholes = [Asked(service, request).wait().events[0] for request in asked]
    before = service.stats()["prompt_tokens"]

    events = [
        Asked(service, dataclasses.replace(request, num_context=40)).wait().events[0]
        for request in asked
    ]

    for event, whole in zip(events, wholes, strict=True):
        assert event.logprobs == (*[None] * 40, *whole.logprobs[40:])
        assert event.tops == (*[()] * 40, *whole.tops[40:])
    assert service.stats()["prompt_tokens"] - before == 2 + 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(prompt=()), "prompt is empty"),
        (dict(max_new_tokens=60), "64 tokens that there is room for"),
        (dict(max_new_tokens=-1), "max_new_tokens=-1"),
        (dict(num_choices=0), "num_choices=0"),
        (dict(sampling=Sampling(top_p=2.0)), "top_p=2.0"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(service, changes, message):
    with pytest.raises(UserError, match=message):
        service.submit(dataclasses.replace(LONG, **changes), print)


def test_a_storm_leaves_nothing_behind_and_compiles_nothing(service):
    rng = np.random.default_rng(1)
    num_threads = threading.active_count()

    def leave_at(num):
        def leave(asked, event):
            if len(asked.events) == num:
                asked.handle.cancel()

        return leave

    with nothing_compiled():
        asked = []
        for request in requests(30):
            when = int(rng.integers(0, 30))
            asked.append(Asked(service, request, leave_at(when)))
            if when == 0:
                asked[-1].handle.cancel()
        for one in asked:
            one.wait()

    for one in asked:
        finishes = [event.choice for event in one.events if isinstance(event, FinishEvent)]
        assert sorted(finishes) == list(range(one.request.num_choices))
    assert {one.reason() for one in asked} == {"stop", "length", "cancelled"}
    stats = service.stats()
    assert (stats["waiting"], stats["active"]) == (0, 0)
    assert sorted(service._scheduler._free) == [0, 1, 2, 3]
    assert threading.active_count() == num_threads
