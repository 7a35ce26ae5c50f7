"""Predictions and vectors over HTTP are those of configs/predict.py and of the library."""

import base64
import contextlib
import http.client
import json
import threading
import time

import numpy as np
import openai
import pytest

from configs import predict as predict_config
from experiments import predict
from lm.inference.embedding import Embedder
from lm.loading.run import load
from lm.parallel.mesh import make_mesh
from lm.serve import computing
from lm.serve.batching import Batches
from lm.serve.served_model import ServedModel
from tests import fake_service
from tests.generation.engine_test import nothing_compiled
from tests.predict_folders_test import LABELS, TAGS, TEXTS, save, t, vocabulary  # noqa: F401

MAX_LEN = 64  # Two lengths of `FewShapes`.


@pytest.fixture(scope="module")
def folders(vocabulary, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("served")
    kinds = {
        "classifier": (t.BertForSequenceClassification, LABELS),
        "tagger": (t.BertForTokenClassification, TAGS),
        "encoder": (t.BertForMaskedLM, {0: "LABEL_0"}),
        "reader": (t.BertForQuestionAnswering, {0: "LABEL_0", 1: "LABEL_1"}),
    }
    for name, (make, labels) in kinds.items():
        save(make, vocabulary, folder / name, MAX_LEN, id2label=labels)
    return folder


@pytest.fixture(scope="module")
def served(folders):
    mesh = make_mesh(strategy="jit", data=-1, fsdp=1, tensor=1, sequence=1)
    models, sizes = [], dict(batch_size=4, max_waiting=64)
    for name in ("classifier", "tagger", "encoder", "reader"):
        run = load(folders / name)
        task = None if name == "encoder" else computing.open_task(run, mesh, **sizes)
        embedder = computing.open_embedder(run, pooling="mean", max_waiting=64)
        models.append(ServedModel(name, run, None, MAX_LEN, 64, 0, embedder, task))
    for model in models:
        for worker in model.workers.values():
            worker.warm()
    with fake_service.Served(fake_service.make_app(models)) as served:
        yield served
    for model in models:
        model.embedder.batches.close()
        if model.task:
            model.task.batches.close()


def ask(served, path, **body):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


RECORDS = {
    "classifier": lambda text: {"text": text},
    "tagger": lambda text: {"tokens": text.split()},
    "reader": lambda text: {"question": "x y", "context": text},
}


@pytest.mark.parametrize("name", RECORDS)
def test_predictions_are_those_of_a_file_whoever_else_asks(served, folders, tmp_path, name):
    texts = [" ".join(["x", "y"] * num) for num in (1, 2, 3, 4, 5, 9, 17, 19, 21, 23, 25)] + TEXTS[
        :5
    ]
    rows = [RECORDS[name](text) for text in texts]
    source, output = tmp_path / "new.jsonl", tmp_path / "predictions.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = predict_config.get_config()
    config.update(checkpoint=str(folders / name), input=str(source), output=str(output))
    predict.run(config, tmp_path)
    expected = [json.loads(line)["prediction"] for line in output.read_bytes().splitlines()]

    def answered(rows):
        status, answer = ask(served, "/v1/predict", model=name, records=rows)
        assert status == 200
        return [one["prediction"] for one in answer["data"]]

    found = {
        "together": answered(rows),
        "backwards": answered(rows[::-1])[::-1],
        "alone": [answered([row])[0] for row in rows],
    }

    assert len({json.dumps(one) for one in expected}) > 5
    # Digit for digit whoever else asks. Rows of a file are fuller, and float32 rounds otherwise.
    assert len({json.dumps(predictions) for predictions in found.values()}) == 1
    for one, of_file in zip(found["alone"], expected, strict=True):
        (words, numbers), (other_words, other_numbers) = _split(one), _split(of_file)
        assert words == other_words
        np.testing.assert_allclose(numbers, other_numbers, atol=2e-6, rtol=0)


def _split(prediction):
    """A prediction without its fractions, and these."""
    numbers = []
    words = json.loads(json.dumps(prediction), parse_float=lambda x: numbers.append(float(x)))
    return words, numbers


def test_texts_alone_are_records_where_a_task_reads_no_more(served):
    _, by_records = ask(served, "/v1/classify", model="classifier", records=[{"text": "x"}])
    _, by_input = ask(served, "/v1/classify", model="classifier", input="x")

    assert by_input == by_records
    assert by_input["task"] == "classification"


def test_it_is_told_where_a_text_is_cut(served):
    _, answer = ask(served, "/v1/predict", model="classifier", input=["x", "x y " * 60])

    assert ["cut" in one for one in answer["data"]] == [False, True]


def test_vectors_are_those_of_the_library_as_numbers_and_as_bytes(served, folders):
    embed = Embedder(load(folders / "encoder"), pooling="mean")
    expected = embed([embed.ids("a", text) for text in TEXTS[:3]])

    _, plain = ask(served, "/v1/embeddings", model="encoder", input=TEXTS[:3])
    _, packed = ask(
        served, "/v1/embeddings", model="encoder", input=TEXTS[:3], encoding_format="base64"
    )
    ids = [embed.ids("a", text) for text in TEXTS[:3]]
    _, by_ids = ask(served, "/v1/embeddings", model="encoder", input=ids)

    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    by_client = client.embeddings.create(model="encoder", input=TEXTS[:3])  # By base64.
    np.testing.assert_array_equal(np.float32([x.embedding for x in by_client.data]), expected)
    vectors = [one["embedding"] for one in plain["data"]]
    np.testing.assert_array_equal(np.float32(vectors), expected)
    raw = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in packed["data"]]
    np.testing.assert_array_equal(raw, expected)
    assert by_ids == plain
    assert plain["usage"] == dict.fromkeys(("prompt_tokens", "total_tokens"), sum(map(len, ids)))


def test_nothing_is_compiled_once_it_is_ready(served):
    words = lambda nums: [" ".join(["x"] * num) for num in nums]
    many = words([1, 2, 29, 5, 40, 8, 1])
    for name, inputs in (
        ("classifier", [{"input": words([n])} for n in (1, 9)] + [{"input": many}]),
        ("tagger", [{"records": [{"tokens": text.split()} for text in many]}]),
        ("tagger", [{"input": "x y"}]),
        ("reader", [{"records": [{"question": "x", "context": text} for text in many]}]),
        ("reader", [{"records": [{"question": "x y", "context": "x " * 200}]}]),
    ):
        for body in inputs:
            with nothing_compiled():
                status, _ = ask(served, "/v1/predict", model=name, **body)
            assert status == 200
    for texts in (["x"], words([1, 28, 3]), words([5] * 9)):
        with nothing_compiled():
            assert ask(served, "/v1/embeddings", model="encoder", input=texts)[0] == 200


REFUSED = {
    "no records": ("/v1/predict", {}, "give either records"),
    "both": ("/v1/predict", {"records": [{"text": "x"}], "input": "x"}, "give either records"),
    "no list": ("/v1/predict", {"records": {"text": "x"}}, "must be a list of objects"),
    "none of them": ("/v1/predict", {"records": []}, "may have 1 to"),
    "no field": (
        "/v1/predict",
        {"records": [{"text": "x"}, {"txt": "x"}]},
        "records[1]: the field",
    ),
    "unknown": ("/v1/predict", {"record": []}, "did you mean records?"),
    "another task": ("/v1/tag", {"input": "x"}, "was trained for classification"),
    "no writer": ("/v1/completions", {"prompt": "x"}, "writes nothing; ask /v1/predict"),
    "no task": ("/v1/predict", {"model": "encoder", "input": "x"}, "was trained for no task"),
    "no input": ("/v1/embeddings", {}, "input is missing"),
    "empty": ("/v1/embeddings", {"input": ["x", " "]}, "input[1] is empty"),
    "mixed": ("/v1/embeddings", {"input": ["x", [5]]}, "must be a text, a list of texts"),
    "beyond ids": ("/v1/embeddings", {"input": [[5, 10**9]]}, "token ids, which are from 0"),
    "long": ("/v1/embeddings", {"input": "x " * 80}, "this model's context is 64 tokens"),
    "long ids": ("/v1/embeddings", {"input": [5] * 65}, "context is 64 tokens, and input has 65"),
    "format": ("/v1/embeddings", {"input": "x", "encoding_format": "hex"}, "one of float, base64"),
    "dimensions": ("/v1/embeddings", {"input": "x", "dimensions": 3}, "is not supported"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_answered_is_refused_in_a_line(served, what):
    path, body, says = REFUSED[what]

    status, answer = ask(served, path, **{"model": "classifier"} | body)

    assert status == 400
    assert says in answer["error"]["message"] and "\n" not in answer["error"]["message"]


def test_requests_that_wait_share_a_call_and_those_that_left_cost_none():
    calls, may_go = [], threading.Event()

    def work(items):
        calls.append(list(items))
        may_go.wait(10)
        return [item * 2 for item in items]

    batches = Batches(work, max_waiting=5)
    first = batches.submit([1])
    while not calls:
        time.sleep(0.01)
    waiting = [batches.submit([2, 3]), batches.submit([4]), batches.submit([5])]
    waiting[1].cancel()
    may_go.set()

    assert first.result(10) == [2]
    assert (waiting[0].result(10), waiting[2].result(10)) == ([4, 6], [10])
    assert calls == [[1], [2, 3, 5]]
    batches.close()
