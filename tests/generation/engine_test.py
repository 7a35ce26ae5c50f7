"""Texts that are written in company are, to the bit, what they are alone."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

from lm.errors import UserError
from lm.generation import sampling, scoring
from lm.generation.engine import Engine
from lm.generation.requests import Sampling
from lm.generation.rows import num_slots_of
from lm.models.families import FAMILIES, param_shapes
from lm.parallel.mesh import make_mesh
from lm.parallel.param_rules import place_params
from tests import tiny
from tests.models.all_families_test import CONFIGS

MODELS = {
    "gpt2": dataclasses.replace(tiny.CONFIG, max_len=64),
    "llama": dataclasses.replace(CONFIGS["llama"], max_len=64, num_kv_heads=1, window=9),
    "t5": dataclasses.replace(CONFIGS["t5"], dropout=0.0),
}
SIZES = dict(max_len=64, chunk_len=32, shortest=32)
VOCABULARY = dict(vocab_size=22, start_id=0)  # One less than the models have.
HOWS = [
    Sampling(temperature=0.0),
    Sampling(),
    Sampling(temperature=2.0, top_k=5),
    Sampling(top_p=0.8),
    Sampling(temperature=0.0, repetition_penalty=1.5),
    Sampling(temperature=1.5, min_p=0.1, repetition_penalty=1.2),
]


@dataclasses.dataclass(frozen=True)
class Ask:
    """A text that is asked for."""

    prompt: tuple[int, ...]
    num_new: int
    how: Sampling
    seed: int
    copy: int = 0


def asks(num, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(num):
        size, num_new = (int(x) for x in rng.integers([1, 1], [45, 16]))
        how = dataclasses.replace(HOWS[i % len(HOWS)], num_logprobs=20)
        prompt = tuple(rng.integers(1, 22, size).tolist())
        made.append(Ask(prompt, num_new, how, seed=i % 3))
    return made


def write(engine, asked, arrivals=None):
    """The tokens of each, whose reading begins at the step of `arrivals`."""
    arrivals = list(arrivals or [0] * len(asked))
    found = [[] for _ in asked]
    active, step = set(), 0
    while len(active) or any(not tokens for tokens in found):
        for i, ask in enumerate(asked):
            if not found[i] and arrivals[i] <= step and len(active) < engine.num_texts:
                reading = engine.reader.begin(ask.prompt, None)
                while not reading.is_done:
                    engine.reader.read(reading)
                found[i].append(engine.add(i, reading, ask.copy, ask.how, ask.seed))
                active.add(i)
        for i in [i for i in active if len(found[i]) == asked[i].num_new]:
            engine.remove(i)
            active.remove(i)
        if active:
            for i, token in engine.step().items():
                found[i].append(token)
        step += 1
    return found


@pytest.fixture(scope="module", params=MODELS)
def subject(request, random_like):
    model = FAMILIES[request.param].module(MODELS[request.param])
    params = random_like(param_shapes(model), scale=0.5)
    num_texts = 12 if request.param == "gpt2" else 8
    engine = Engine(model, params, num_texts=num_texts, **VOCABULARY, **SIZES)
    engine.warm()
    return model, params, engine


@contextlib.contextmanager
def nothing_compiled():
    """Fails where anything is."""
    compiled = []

    def note(event, seconds, **more):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(more)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert compiled == []


def test_no_bit_depends_on_order_arrival_row_or_size(subject):
    _, _, engine = subject
    asked = asks(14)

    with nothing_compiled():
        together = write(engine, asked)
        late = write(engine, asked, arrivals=[3 * (i % 5) for i in range(len(asked))])
        backwards = write(engine, asked[::-1])[::-1]
        alone = [write(engine, [ask])[0] for ask in asked]

    assert together == late == backwards == alone
    assert [len(tokens) for tokens in alone] == [ask.num_new for ask in asked]


def test_tokens_are_those_that_are_generated_alone(subject):
    model, params, engine = subject
    asked = [dataclasses.replace(ask, num_new=12) for ask in asks(12, seed=1)]

    written = write(engine, asked)

    for ask, tokens in zip(asked, written, strict=True):
        how = dataclasses.asdict(ask.how)
        settings = {name: how[name] for name in how if name not in ("seed", "num_logprobs")}
        (expected,) = sampling.generate(
            model,
            params,
            [ask.prompt],
            jax.random.key(ask.seed),
            max_new_tokens=12,
            stop_ids=(),
            **settings,
            **VOCABULARY,
        )
        assert [token.token for token in tokens] == expected


def test_copies_of_a_prompt_are_the_samples_that_are_generated(subject):
    model, params, engine = subject
    how = dict(temperature=1.0, top_k=0, top_p=1.0)
    prompt = (3, 1, 4)
    expected = sampling.generate(
        model,
        params,
        [prompt] * 4,
        jax.random.key(1 << 31),
        max_new_tokens=6,
        stop_ids=(),
        **how,
        **VOCABULARY,
    )

    asked = [Ask(prompt, 6, Sampling(**how), 1 << 31, copy) for copy in range(4)]

    found = [[token.token for token in tokens] for tokens in write(engine, asked)]
    assert found == expected
    assert len({tuple(tokens) for tokens in found}) == 4
    other = dataclasses.replace(asked[0], seed=asked[0].seed + (1 << 32))
    assert [token.token for token in write(engine, [other])[0]] != found[0]


def test_the_likeliest_tokens_are_told_with_their_log_probabilities(subject):
    _, _, engine = subject
    how = Sampling(temperature=0.0, num_logprobs=20)

    (tokens,) = write(engine, [Ask((5, 9, 11), 5, how, 0)])

    for token, log_prob, top in tokens:
        assert (token, log_prob) == top[0]
        assert len({index for index, _ in top}) == len(top) == 20
        assert 0.5 < sum(np.exp(x) for _, x in top) < 1
    (few, none) = write(
        engine,
        [Ask((5, 9, 11), 5, dataclasses.replace(how, num_logprobs=num), 0) for num in (2, 0)],
    )
    assert few == [token._replace(top=token.top[:2]) for token in tokens]
    assert none == [token._replace(top=()) for token in tokens]


def test_rows_and_slots_come_and_go_with_the_texts_that_need_them(subject):
    _, _, engine = subject
    lasting = Ask((1,), 60, Sampling(), 0)
    companions = [dataclasses.replace(ask, num_new=3) for ask in asks(engine.num_texts - 1)]
    companions[0] = Ask((2,) * 40, 2, Sampling(), 0)
    sizes = []

    def sizes_of(step):
        def measured():
            sizes.append(engine.cache_bytes)
            return step()

        return measured

    (alone,) = write(engine, [lasting])
    for _ in range(2):  # For long enough that what that needed is taken away again.
        write(engine, [dataclasses.replace(lasting, num_new=30)])
    with nothing_compiled(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "step", sizes_of(engine.step))
        found = write(engine, [lasting, *companions], arrivals=[0, *[5] * len(companions)])

    assert found[0] == alone
    # 32 slots, then 64 for the long one; these are kept for a while, and needed again at the end.
    assert sizes[4] < max(sizes) == sizes[6]
    assert engine.has_encoder or len(engine._usable) == len(engine._shapes)


def test_only_shapes_that_were_seen_to_be_exact_are_used(random_like):
    model = FAMILIES["gpt2"].module(MODELS["gpt2"])
    params = random_like(param_shapes(model), scale=0.5)
    engine = Engine(model, params, num_texts=8, **VOCABULARY, **SIZES)
    before = list(engine._usable)
    step = engine._programs.step

    def inexact(rows, *rest):
        rows, drawn = step(rows, *rest)
        if num_slots_of(rows.caches) == 32:
            drawn = drawn.replace(top_log_prob_BC=drawn.top_log_prob_BC + 1e-6)
        return rows, drawn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._programs, "step", inexact)
        engine.warm()
    seen = list(engine._usable)
    engine.warm()

    assert before == [(1, 64)]
    assert seen == [(0, 64), (1, 64)]
    assert engine._usable == [(0, 32), (0, 64), (1, 32), (1, 64)]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def engines(request, random_like):
    """One that shares no prefixes, and one that does."""
    model = FAMILIES[request.param].module(MODELS[request.param])
    params = random_like(param_shapes(model), scale=0.5)
    made = [
        Engine(model, params, num_texts=8, prefix_bytes=size, **VOCABULARY, **SIZES)
        for size in (0, 100_000)
    ]
    made[1].warm()
    return made


def test_answers_are_scored_behind_a_prompt_that_is_read_once_to_the_same_bits(engines):
    rng = np.random.default_rng(0)
    prompt = tuple(rng.integers(1, 22, 40).tolist())
    asked = [prompt + tuple(rng.integers(1, 22, num).tolist()) for num in (3, 1, 8, 20)]

    def scored(engine, whole):
        reading = engine.reader.begin(whole, 3, len(prompt))
        num_read = len(whole) - reading.num_read
        while not reading.is_done:
            engine.reader.read(reading)
        return num_read, reading.scores[len(prompt) - len(whole) :]

    alone = [scored(engines[0], whole) for whole in asked]
    with nothing_compiled():
        together = [scored(engines[1], whole) for whole in asked]

    assert [scores for _, scores in together] == [scores for _, scores in alone]
    assert [num for num, _ in alone] == [43, 41, 48, 60]
    assert [num for num, _ in together] == [43, 2, 9, 21]
    # What the answers differ in is not worth the room.
    assert engines[1].reader.begin(asked[-1], None).num_read == 40
    engines[1].reader.prefixes.clear()


def test_a_prefix_that_is_known_changes_no_bit(engines):
    rng = np.random.default_rng(0)
    system = rng.integers(1, 22, 40).tolist()
    asked = [
        Ask(tuple(system[:num] + rng.integers(1, 22, more).tolist()), 5, how, 0)
        for num, more, how in zip((40, 40, 33, 40, 12), (5, 3, 8, 0, 4), HOWS, strict=False)
    ]

    expected = write(engines[0], asked)
    with nothing_compiled():
        found = [write(engines[1], [ask])[0] for ask in asked]
        again = engines[1].reader.begin(asked[0].prompt, None)

    assert found == expected
    assert again.num_read == len(asked[0].prompt) - 1
    assert engines[1].reader.begin(tuple(system[1:]), None).num_read == 0


def test_a_prompt_is_scored_as_a_text_is(subject):
    model, params, engine = subject
    prompt = asks(1, seed=3)[0].prompt + (3,) * 20
    if engine.has_encoder:
        return

    with nothing_compiled():
        reading = engine.reader.begin(prompt, 3)
        while not reading.is_done:
            engine.reader.read(reading)

    assert [score.token for score in reading.scores] == list(prompt[1:])
    pairs = [(prompt[:num], prompt[num : num + 1]) for num in range(1, len(prompt))]
    theirs = scoring.score(model, params, pairs, vocab_size=22)
    for ours, their in zip(reading.scores, theirs, strict=True):
        np.testing.assert_allclose(ours.log_prob, their.log_likelihood, atol=1e-5)
        assert len(ours.top) == 3
        assert (ours.top[0][0] == ours.token) == their.is_greedy


def test_nothing_is_compiled_of_parameters_on_a_mesh_of_one_device(random_like):
    model = FAMILIES["gpt2"].module(MODELS["gpt2"])
    axes = dict(data=1, fsdp=1, tensor=1, sequence=1)
    mesh = make_mesh(strategy="jit", **axes, devices=jax.devices()[:1])
    params = place_params(random_like(param_shapes(model), scale=0.5), mesh)
    sizes = SIZES | dict(max_len=32)  # One shape, which joins and steps follow each other in.
    engine = Engine(model, params, num_texts=4, prefix_bytes=100_000, **VOCABULARY, **sizes)
    engine.warm()

    with nothing_compiled():
        first, other, again = (
            write(engine, [Ask((3, 1, 4), 5, how, 0)]) for how in (HOWS[0], HOWS[3], HOWS[0])
        )

    assert first == again != other


def test_what_parameters_are_cut_over_devices_write_is_the_same(random_like):
    model = FAMILIES["gpt2"].module(dataclasses.replace(MODELS["gpt2"], vocab_size=24))
    params = random_like(param_shapes(model), scale=0.5)
    mesh = make_mesh(strategy="jit", data=1, fsdp=1, tensor=2, sequence=1)
    engines = [
        Engine(model, x, num_texts=2, **VOCABULARY, max_len=64, chunk_len=32, shortest=32)
        for x in (params, place_params(params, mesh))
    ]
    engines[1].warm()
    asked = asks(4)

    expected = write(engines[0], asked)
    with nothing_compiled():
        found = write(engines[1], asked)

    cut = lambda texts: [[token.token for token in tokens] for tokens in texts]
    assert cut(found) == cut(expected)


@pytest.mark.parametrize(
    ("prompt", "num_new", "how", "message"),
    [
        ((), 1, Sampling(), "prompt is empty"),
        ((1, 22), 1, Sampling(), "token 22"),
        ((1, -1), 1, Sampling(), "token -1"),
        ((1,) * 60, 5, Sampling(), "a prompt of 60 tokens and max_new_tokens=5 exceed the 64"),
        ((1,), 1, Sampling(temperature=-1.0), "temperature=-1"),
        ((1,), 1, Sampling(num_logprobs=21), "num_logprobs=21"),
    ],
)
def test_what_cannot_be_written_is_named(subject, prompt, num_new, how, message):
    _, _, engine = subject
    if engine.has_encoder and "exceed" in message:
        engine.check(prompt, num_new, how)
        num_new = 65
        message = "max_new_tokens=65 exceed the 64"
    with pytest.raises(UserError, match=message):
        engine.check(prompt, num_new, how)
