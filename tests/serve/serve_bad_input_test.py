"""What cannot be answered is refused with its reason, and a server goes on."""

import http.client
import json
import random

import pytest

from benchmarks.serve_load.mutations import mutated
from tests import fake_service
from tests.fake_service import TEXT

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    service = fake_service.FakeService(max_waiting=8)
    folder = tmp_path_factory.mktemp("served")
    models = [
        fake_service.make_model(folder / "chat", service),
        fake_service.make_model(folder / "plain", service, "plain", template=""),
    ]
    # Its texts begin with no token of their own.
    models[1].run.config["data"]["add_bos"] = False
    with fake_service.Served(fake_service.make_app(models)) as served:
        yield served
    service.close()


def post(served, path, body, headers=()):
    """The status and the object of an answer; `body` is sent as it is, or as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    connection.request("POST", path, data, {"Content-Type": "application/json", **dict(headers)})
    answer = connection.getresponse()
    value = json.loads(answer.read())
    connection.close()
    return answer, value


def refused(served, path, body, headers=()):
    """The status and the error of an answer that is none, in the form that OpenAI has."""
    answer, value = post(served, path, body, headers)
    assert value.keys() == {"error"}
    assert value["error"].keys() == {"message", "type", "param", "code"}
    assert "\n" not in value["error"]["message"]
    return answer.status, value["error"]


# What is asked besides a prompt of "hi", the field at fault, a part of the message.
FIELDS = {
    "an unknown field": ({"temprature": 1}, "temprature", "did you mean temperature?"),
    "a field of another endpoint": ({"messages": []}, "messages", "unknown parameter: messages"),
    "a suffix": ({"suffix": "x"}, "suffix", "suffix is not supported"),
    "a bias": ({"logit_bias": {"5": 1}}, "logit_bias", "is not supported"),
    "a penalty": ({"frequency_penalty": 0.5}, "frequency_penalty", "is not supported"),
    "best of": ({"best_of": 2}, "best_of", "is not supported"),
    "a bool for a number": ({"temperature": True}, "temperature", "is true or false"),
    "a bool for a whole number": ({"n": True}, "n", "is true or false"),
    "a text for a number": ({"seed": "x"}, "seed", "is a text and must be a whole number"),
    "a number for a flag": ({"stream": 1}, "stream", "must be true or false"),
    "a fraction": ({"max_tokens": 1.5}, "max_tokens", "must be a whole number"),
    "a negative temperature": ({"temperature": -1}, "temperature", "is -1 and must be from 0"),
    "a huge temperature": ({"temperature": 1e300}, "temperature", "must be from 0 to 100"),
    "too much probability": ({"top_p": 2}, "top_p", "must be above 0 and at most 1"),
    "no probability": ({"top_p": 0}, "top_p", "must be above 0"),
    "a negative k": ({"top_k": -1}, "top_k", "is -1"),
    "min_p": ({"min_p": 1.5}, "min_p", "from 0 to 1"),
    "no penalty": ({"repetition_penalty": 0}, "repetition_penalty", "from 1e-06"),
    "a seed of 65 bits": ({"seed": 2**64}, "seed", "must be from -9223372036854775808"),
    "no choices": ({"n": 0}, "n", "must be from 1 to 128"),
    "too many choices": ({"n": 10**6}, "n", "must be from 1 to 128"),
    "no tokens": ({"max_tokens": 0}, "max_tokens", "only a request with echo"),
    "negative tokens": ({"max_tokens": -5}, "max_tokens", "is -5"),
    "too many log-probabilities": ({"logprobs": 21}, "logprobs", "from 0 to 20"),
    "an empty stop": ({"stop": ""}, "stop", "holds an empty text"),
    "an empty stop among others": ({"stop": ["a", ""]}, "stop", "holds an empty text"),
    "nine empty stops": ({"stop": [""] * 9}, "stop", "holds an empty text"),
    "17 stops": ({"stop": list("abcdefghijklmnopq")}, "stop", "has 17 texts"),
    "a stop that is no text": ({"stop": [1]}, "stop", "must be a text, or a list of texts"),
    "options of no stream": ({"stream_options": {}}, "stream_options", "is about a stream"),
    "unknown options": (
        {"stream": True, "stream_options": {"includeusage": True}},
        "stream_options.includeusage",
        "did you mean stream_options.include_usage?",
    ),
    "no prompt": ({"prompt": None}, "prompt", "prompt is missing"),
    "no prompts": ({"prompt": []}, "prompt", "has 0 prompts"),
    "an empty list": ({"prompt": [[]]}, "prompt", "must be a text, a list of texts"),
    "a number": ({"prompt": 5}, "prompt", "is a number"),
    "texts and ids": ({"prompt": ["a", 5]}, "prompt", "must be a text, a list of texts"),
    "lists and texts": ({"prompt": [[5], "a"]}, "prompt", "must be a text, a list of texts"),
    "bools": ({"prompt": [True, False]}, "prompt", "must be a text, a list of texts"),
    "an id that there is not": ({"prompt": [5, 259]}, "prompt", "holds 259, and must hold"),
    "a negative id": ({"prompt": [[5], [-1]]}, "prompt[1]", "holds -1"),
    "a fraction of an id": ({"prompt": [1.5]}, "prompt", "holds 1.5"),
    "too many prompts": ({"prompt": ["a"] * 9}, "prompt", "has 9 prompts, and may have 1 to 8"),
    "an empty prompt": ({"prompt": "", "model": "plain"}, "prompt", "is empty"),
    "answers that are empty": ({"guided_choice": []}, "guided_choice", "has 0 texts"),
    "an answer that is empty": ({"guided_choice": [""]}, "guided_choice", "an empty text"),
    "too many answers": (
        {"guided_choice": ["a"] * 5, "prompt": ["a", "b"]},
        "guided_choice",
        "together 8 may be scored",
    ),
    "an answer that is too long": (
        {"guided_choice": ["abc"], "max_tokens": 2},
        "guided_choice",
        "has 'abc' of 3 tokens, and may have 1 to max_tokens=2",
    ),
    "an echo of answers": ({"guided_choice": ["a"], "echo": True}, "echo", "does nothing"),
    "a stop of answers": ({"guided_choice": ["a"], "stop": "b"}, "stop", "does nothing"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_at_fault_is_named(served, name):
    given, param, message = FIELDS[name]

    status, error = refused(served, COMPLETIONS, {"model": "fake", "prompt": "hi"} | given)

    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert message in error["message"]
    assert error["code"]


SAY = [{"role": "user", "content": "hi"}]
CHATS = {
    "no messages": ({"messages": None}, "messages", "messages is missing"),
    "none of them": ({"messages": []}, "messages", "must be a list"),
    "a text": ({"messages": "hi"}, "messages", "must be a list"),
    "no content": (
        {"messages": [{"role": "user", "content": None}]},
        "messages",
        "message 1 is no",
    ),
    "an unknown role": ({"messages": [{"role": "x", "content": "a"}]}, "messages", "the role 'x'"),
    "an answer last": (
        {"messages": [*SAY, {"role": "assistant", "content": "a"}]},
        "messages",
        "the last message is an assistant's already",
    ),
    "a picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages",
        "message 1 is no",
    ),
    "no template": ({"model": "plain"}, "model", "the model plain has no chat template"),
    "tools": ({"tools": [{"type": "function"}]}, "tools", "tools is not supported"),
    "a form of answers": (
        {"response_format": {"type": "json_object"}},
        "response_format",
        "is not supported",
    ),
    "a template": ({"chat_template": "{{ 1 }}"}, "chat_template", "is not supported"),
    "variables": (
        {"chat_template_kwargs": 5},
        "messages",
        "chat_template_kwargs must be an object",
    ),
    "tops alone": ({"top_logprobs": 2}, "top_logprobs", "needs logprobs to be true"),
    "too many tops": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
    "a number of log-probabilities": ({"logprobs": 2}, "logprobs", "must be true or false"),
    "two lengths": (
        {"max_tokens": 5, "max_completion_tokens": 6},
        "max_tokens",
        "leave one of them out",
    ),
    "no tokens": ({"max_completion_tokens": 0}, "max_completion_tokens", "must be from 1"),
    "a prompt": ({"prompt": "a"}, "prompt", "unknown parameter"),
}


@pytest.mark.parametrize("name", CHATS)
def test_a_field_of_a_chat_at_fault_is_named(served, name):
    given, param, message = CHATS[name]

    status, error = refused(served, CHAT, {"model": "fake", "messages": SAY} | given)

    assert (status, error["param"]) == (400, param)
    assert message in error["message"]


def test_a_context_that_is_too_long_is_refused_with_both_numbers(served):
    long = [5] * 190
    for given, num in (({"max_tokens": 11}, 201), ({"prompt": [5] * 250, "max_tokens": 1}, 251)):
        status, error = refused(served, COMPLETIONS, {"model": "fake", "prompt": long} | given)

        assert (status, error["code"]) == (400, "context_length_exceeded")
        assert "is 200 tokens" in error["message"]
        assert f"{num} were asked for" in error["message"]
    status, error = refused(
        served, CHAT, {"model": "fake", "messages": [{"role": "user", "content": "x" * 190}]}
    )
    assert (status, error["code"]) == (400, "context_length_exceeded")
    _, value = post(served, COMPLETIONS, {"model": "fake", "prompt": long, "max_tokens": 10})
    assert value["usage"]["completion_tokens"] == 10
    _, value = post(served, COMPLETIONS, {"model": "fake", "prompt": long})
    assert value["usage"]["completion_tokens"] == 10  # As much as there is room for.


PROMPT = {"model": "fake", "prompt": "hi"}
NEUTRAL = {
    "logit_bias": {},
    "frequency_penalty": 0,
    "presence_penalty": 0.0,
    "best_of": 1,
    "suffix": None,
    "stop": [],
    "stream_options": None,
    "user": "me",
    "seed": -(2**63),
    "max_tokens": 100,
}


def test_what_asks_for_nothing_is_taken(served):
    answer, value = post(served, COMPLETIONS, PROMPT | NEUTRAL)

    assert (answer.status, value["choices"][0]["text"]) == (200, TEXT)


BODIES = {
    "nothing": (b"", 400, "is no JSON"),
    "one byte": (b"{", 400, "is no JSON"),
    "no object": (b"[]", 400, "is a list, and must be an object"),
    "NaN": (b'{"temperature": NaN}', 400, "holds NaN"),
    "infinite": (b'{"temperature": -Infinity}', 400, "holds -Infinity"),
    "infinite as a float": (b'{"temperature": 1e400}', 400, "beyond what a float holds"),
    "many digits": (b'{"seed": ' + b"9" * 5000 + b"}", 400, "too many digits"),
    "deep": (b'{"prompt": ' + b"[" * 500 + b"]" * 500 + b"}", 400, "nested too deeply"),
    "very deep": (b"[" * 15_000, 400, "nested too deeply"),
    "no UTF-8": (b'{"prompt": "\xff"}', 400, "is no UTF-8"),
    "UTF-16": ('{"prompt": "a"}'.encode("utf-16"), 400, "is no UTF-8"),
    "half a pair": (rb'{"prompt": "\ud800"}', 400, "half of a surrogate pair"),
    "half a pair in a name": (rb'{"\udfff": 1}', 400, "half of a surrogate pair"),
    "2 MB": (b'{"prompt": "' + b"a" * 2_000_000 + b'"}', 413, "more than 20,000 bytes"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_none_is_refused(served, name):
    body, status, message = BODIES[name]

    found, error = refused(served, COMPLETIONS, body)

    assert found == status
    assert message in error["message"]


def test_a_body_without_a_length_is_read_up_to_the_limit(served):
    def parts(num):
        data = json.dumps(PROMPT).encode()
        yield data + b" " * 100
        yield from [b" " * 1000] * num

    for num, status in ((3, 200), (40, 413)):
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", COMPLETIONS, parts(num), headers, encode_chunked=True)
        assert connection.getresponse().status == status
        connection.close()


def test_other_paths_methods_and_kinds_are_refused(served):
    assert refused(served, "/v1/nothing", PROMPT)[0] == 404
    status, error = refused(served, "/health", PROMPT)
    assert (status, error["code"]) == (405, "method_not_allowed")
    for headers in ({"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}):
        status, error = refused(served, COMPLETIONS, PROMPT, headers)
        assert (status, error["code"]) == (415, "unsupported_media_type")
    assert refused(served, COMPLETIONS, {"model": "plane", "prompt": "a"})[0] == 404
    status, error = refused(served, COMPLETIONS, {"prompt": "a"})  # There are two.
    assert (status, error["param"]) == (400, "model")
    assert "choose fake, plain" in error["message"]


WHOLE = [
    (COMPLETIONS, PROMPT | {"max_tokens": 3}),
    (COMPLETIONS, PROMPT | {"max_tokens": 2, "logprobs": 1, "echo": True, "stop": ["a", "b"]}),
    (CHAT, {"model": "fake", "messages": SAY, "max_tokens": 3}),
    (CHAT, {"model": "fake", "messages": SAY, "max_tokens": 2, "logprobs": True, "stream": True}),
]


def check_mutations(served, num):
    """Counts answers by status; whatever is sent, a usual request is answered as before."""
    rng, statuses = random.Random(0), {}
    for i in range(num):
        path, data = mutated(rng, WHOLE)
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
        connection.request("POST", path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
        assert answer.status == 200 or 400 <= answer.status < 500, (path, data, text)
        if answer.status != 200:
            assert json.loads(text)["error"]["message"]
        if i % 50 == 0:
            _, value = post(served, COMPLETIONS, PROMPT | {"max_tokens": 100})
            assert value["choices"][0]["text"] == TEXT
    return statuses


def test_no_body_makes_a_server_fail(served):
    statuses = check_mutations(served, 300)

    assert min(statuses[200], statuses[400]) > 30
