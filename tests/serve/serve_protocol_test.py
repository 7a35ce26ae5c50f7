"""What clients of OpenAI get, from a service whose texts are known."""

import asyncio
import json
import math

import openai
import pytest

from lm.generation.requests import FinishEvent, TokenEvent
from lm.serve import chat as chats
from lm.serve import completions, mailbox
from lm.tokenizers.tokenizers import ByteTokenizer
from tests import fake_service
from tests.fake_service import LOGPROB, TEXT

BYTES = TEXT.encode()
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def service():
    service = fake_service.FakeService(max_waiting=40)
    yield service
    service.close()


@pytest.fixture(scope="module")
def client(service, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    models = [
        fake_service.make_model(folder / "chat", service),
        fake_service.make_model(folder / "plain", service, "other/plain", template=""),
    ]
    with fake_service.Served(fake_service.make_app(models)) as served:
        yield openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def complete(client, prompt="hi", **settings):
    return client.completions.create(model="fake", prompt=prompt, **{"max_tokens": 100} | settings)


def chat(client, **settings):
    return client.chat.completions.create(**{"model": "fake", "messages": MESSAGES} | settings)


def test_a_text_is_the_one_that_the_service_writes(client, service):
    found = complete(client, "hi", seed=5, temperature=0.5, top_p=0.9, extra_body={"top_k": 3})

    (choice,) = found.choices
    assert (choice.text, choice.finish_reason, choice.logprobs) == (TEXT, "length", None)
    assert found.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 3,
        "completion_tokens": len(BYTES),
        "total_tokens": 3 + len(BYTES),
    }
    assert (found.object, found.model, found.id[:5]) == ("text_completion", "fake", "cmpl-")
    request = service.asked[-1]
    assert request.prompt == (1, ord("h") + 3, ord("i") + 3)
    sampling = request.sampling
    assert (sampling.seed, sampling.temperature, sampling.top_p, sampling.top_k) == (5, 0.5, 0.9, 3)
    assert (request.goes_on, request.stop_ids, request.stops) == (True, (2,), ())


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("hi", [(1, 107, 108)]),
        (["h", "i"], [(1, 107), (1, 108)]),
        ([107, 108], [(107, 108)]),
        ([[107], [108, 3]], [(107,), (108, 3)]),
    ],
    ids=["text", "texts", "ids", "lists of ids"],
)
def test_prompts_come_in_four_forms(client, service, prompt, tokens):
    service.asked.clear()

    found = complete(client, prompt, n=2)

    assert [request.prompt for request in service.asked] == tokens
    assert [choice.index for choice in found.choices] == list(range(2 * len(tokens)))
    assert {choice.text for choice in found.choices} == {TEXT}
    num_prompt = sum(map(len, tokens))
    assert found.usage.prompt_tokens == num_prompt
    assert found.usage.completion_tokens == 2 * len(tokens) * len(BYTES)


STREAMED = {
    "plain": {},
    "a stop": {"stop": "北"},
    "stops": {"stop": ["and", "thing,", "thing"]},
    "choices": {"n": 3},
    "prompts": {"prompt": ["a", "b"], "n": 2},
    "echo": {"echo": True},
    "logprobs": {"logprobs": 2, "stop": ["ing"]},
    "echo and logprobs": {"echo": True, "logprobs": 0, "n": 2},
    "a score": {"echo": True, "logprobs": 1, "max_tokens": 0},
    "an answer": {"extra_body": {"guided_choice": ["aa", "ab"]}, "n": 2, "logprobs": 1, "seed": 1},
}


@pytest.mark.parametrize("name", STREAMED)
def test_what_is_streamed_is_what_comes_at_once(client, name):
    settings = STREAMED[name]
    plain = complete(client, **settings)

    parts = list(complete(client, **settings, stream=True, stream_options={"include_usage": True}))

    *chunks, last = parts
    assert last.choices == []
    assert last.usage == plain.usage
    assert all(chunk.usage is None for chunk in chunks)
    assert {chunk.id for chunk in parts} == {last.id}
    for choice in plain.choices:
        mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(part.text for part in mine) == choice.text
        assert [part.finish_reason for part in mine if part.finish_reason] == [choice.finish_reason]
        assert mine[-1].finish_reason
        told = [part.logprobs for part in mine if part.logprobs]
        assert bool(told) == (choice.logprobs is not None)
        for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset") if told else ():
            joined = [x for each in told for x in getattr(each, field)]
            assert joined == getattr(choice.logprobs, field)


def test_each_token_whose_likelihood_is_told_comes_by_itself(client):
    for parts in (
        complete(client, stream=True, logprobs=0, n=3),
        chat(client, stream=True, logprobs=True, n=3),
    ):
        choices = [choice for part in parts for choice in part.choices if choice.logprobs]
        told = [getattr(c.logprobs, "tokens", None) or c.logprobs.content for c in choices]
        assert [len(tokens) for tokens in told] == [1] * (3 * len(BYTES))


def test_stops_leave_nothing_of_themselves(client):
    for stop in ("thing", ["x", "京 and"], [" ", "the t"], "👋🏽"):
        at = min(TEXT.find(s) for s in ([stop] if isinstance(stop, str) else stop) if s in TEXT)
        (choice,) = complete(client, stop=stop).choices
        assert (choice.text, choice.finish_reason) == (TEXT[:at], "stop")


def test_log_probabilities_of_tokens(client):
    (choice,) = complete(client, logprobs=2, max_tokens=13).choices

    logprobs = choice.logprobs
    assert logprobs.tokens == [*"the thing, ", r"bytes:\xe5", r"bytes:\x8c"]
    assert logprobs.token_logprobs == [LOGPROB] * 13
    assert logprobs.top_logprobs[0] == {"t": LOGPROB, "u": LOGPROB - 1}
    # A character counts from where its last byte stands.
    assert logprobs.text_offset == [*range(11), 11, 11]


def test_no_likelihood_at_all_is_a_number_that_json_has():
    event = TokenEvent(0, 100, "a", -math.inf, ((101, -0.5), (102, -math.inf)))
    delta = mailbox.Delta(text="a", tokens=[event], reason="length")
    layouts = completions.Completions(ByteTokenizer(), None, 2), chats.Chat(ByteTokenizer(), 2)

    text, message = (layout.choice(0, 0, delta, False)["logprobs"] for layout in layouts)

    assert text["token_logprobs"] == [-9999.0]
    assert text["top_logprobs"] == [{"b": -0.5, "c": -9999.0, "a": -9999.0}]
    (token,) = message["content"]
    assert [token["logprob"], *[top["logprob"] for top in token["top_logprobs"]]] == [
        -9999.0,
        -0.5,
        -9999.0,
    ]
    json.dumps([text, message], allow_nan=False)


def test_an_echo_scores_the_prompt(client, service):
    (choice,) = complete(client, "ab", echo=True, logprobs=1, max_tokens=0).choices

    assert service.asked[-1].max_new_tokens == 0
    assert (choice.text, choice.finish_reason) == ("ab", "length")
    assert choice.logprobs.tokens == ["<s>", "a", "b"]
    assert choice.logprobs.token_logprobs == [None, LOGPROB, LOGPROB]
    assert choice.logprobs.top_logprobs[0] is None
    assert choice.logprobs.top_logprobs[1] == {"\x02": -0.125, "a": LOGPROB}
    assert choice.logprobs.text_offset == [0, 0, 1]


def test_the_likeliest_answer_is_chosen(client, service):
    guided = {"guided_choice": ["aa", "ab", "ac"]}
    service.asked.clear()
    (choice,) = complete(client, "x", temperature=0, logprobs=0, extra_body=guided).choices

    assert (choice.text, choice.finish_reason) == ("ab", "stop")
    assert choice.logprobs.tokens == ["a", "b"]
    assert choice.logprobs.token_logprobs == [LOGPROB, LOGPROB]
    behind = {request.prompt[2:] for request in service.asked}
    assert behind == {(100, 100), (100, 101), (100, 102)}
    assert {(request.max_new_tokens, request.num_context) for request in service.asked} == {(0, 2)}


def test_answers_are_drawn_by_their_likelihood(client):
    # exp(-0.5) against twice exp(-1.5): 0.5761.
    answers = {"guided_choice": ["aa", "ab", "ac"]}
    drawn = [
        choice.text
        for seed in range(20)
        for choice in complete(client, "x", seed=seed, n=100, extra_body=answers).choices
    ]

    share = drawn.count("ab") / len(drawn)
    expected = 1 / (1 + 2 * math.exp(-1))
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 2000)
    cold = complete(client, "x", temperature=0.01, n=50, extra_body=answers)
    assert {choice.text for choice in cold.choices} == {"ab"}
    again = [complete(client, "x", seed=3, n=20, extra_body=answers).choices for _ in range(2)]
    assert again[0] == again[1]


def test_a_chat_is_laid_out_and_answered(client, service):
    found = chat(client, stop=["京"], logprobs=True, top_logprobs=1, seed=2**40)

    (choice,) = found.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == TEXT[: TEXT.find("京")]
    assert choice.finish_reason == "stop"
    request = service.asked[-1]
    assert ByteTokenizer().decode(request.prompt) == "user:hiassistant:"
    assert request.prompt.count(0) == 1  # The token that the template writes behind a message.
    assert (request.stop_ids, request.goes_on) == ((2, 0), False)
    assert request.max_new_tokens == 200 - len(request.prompt)
    assert request.sampling.seed == 2**40
    token = choice.logprobs.content[0]
    assert (token.token, token.bytes, token.logprob) == ("t", [116], LOGPROB)
    assert [(top.token, top.logprob) for top in token.top_logprobs] == [("t", LOGPROB)]
    assert choice.logprobs.content[-1].bytes == [0xE4]
    assert found.id.startswith("chatcmpl-")


def test_a_chat_is_streamed(client):
    settings = dict(n=2, logprobs=True, top_logprobs=2)
    plain = chat(client, **settings)

    *chunks, last = chat(client, **settings, stream=True, stream_options={"include_usage": True})

    assert last.usage == plain.usage
    for choice in plain.choices:
        mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert (mine[0].delta.role, mine[0].delta.content) == ("assistant", "")
        assert "".join(c.delta.content or "" for c in mine) == choice.message.content == TEXT
        assert mine[-1].finish_reason == choice.finish_reason
        told = [token for c in mine if c.logprobs for token in c.logprobs.content]
        assert told == choice.logprobs.content


def test_an_answer_of_a_chat_is_chosen_with_its_end(client, service):
    service.asked.clear()

    (choice,) = chat(client, extra_body={"guided_choice": ["yes", "no"]}).choices

    assert choice.message.content in ("yes", "no")
    assert {request.prompt[-1] for request in service.asked} == {0}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
        {"role": "developer", "content": "hi"},
        {"role": "tool", "content": "hi", "tool_call_id": "a"},
    ],
    ids=["parts", "developer", "tool"],
)
def test_messages_of_other_kinds_are_laid_out(client, service, message):
    chat(client, messages=[message])

    text = ByteTokenizer().decode(service.asked[-1].prompt)
    assert text == f"{message['role']}:hiassistant:"


def test_models_are_listed(client):
    listed = client.models.list().data

    assert [model.id for model in listed] == ["fake", "other/plain"]
    assert client.models.retrieve("other/plain") == listed[1]
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("fak")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("settings", "code", "param"),
    [
        ({"prompt": [5] * 250}, "context_length_exceeded", None),
        ({"temperature": -1}, "invalid_value", "temperature"),
        ({"extra_body": {"temprature": 1}}, "unknown_parameter", "temprature"),
    ],
)
def test_a_refusal_is_an_error_of_the_client_with_its_code(client, settings, code, param):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, **{"max_tokens": None} | settings)

    assert (caught.value.code, caught.value.param) == (code, param)


def test_a_failure_is_told_and_ends_a_stream(tmp_path):
    broken = fake_service.FakeService(reason="error")
    lines = []
    model = fake_service.make_model(tmp_path, broken)
    with fake_service.Served(fake_service.make_app([model], say=lines.append)) as served:
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.InternalServerError, match="could not go on"):
            complete(client)
        parts = []
        with pytest.raises(openai.APIError, match="could not go on"):
            parts.extend(complete(client, stream=True))
    broken.close()

    assert "".join(part.choices[0].text for part in parts) in TEXT[:3]


def test_events_are_sorted_by_choice():
    sorter = mailbox.Sorter()
    token = lambda choice, text: TokenEvent(choice, 5, text, -1.0, ())

    first = sorter.sort([(0, token(0, "a")), (1, token(0, "b")), (0, token(1, "c"))])
    second = sorter.sort([(0, token(0, "d")), (0, FinishEvent(0, "e", "stop"))])

    assert {at: delta.text for at, delta in first.items()} == {
        (0, 0): "a",
        (1, 0): "b",
        (0, 1): "c",
    }
    assert [(at, d.text, len(d.tokens), d.reason) for at, d in second.items()] == [
        ((0, 0), "de", 1, "stop")
    ]


def test_events_that_nobody_waits_for_are_dropped():
    async def make():
        return mailbox.Mailbox(1)

    box = asyncio.run(make())

    box.emitter(0)(FinishEvent(0, "", "cancelled"))
