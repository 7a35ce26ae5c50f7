"""A server that is told to stop ends in order: what is under way is done, or cut and told so."""

import contextlib
import http.client
import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.fake_service import TEXT

ROOT = pathlib.Path(__file__).parents[2]


@contextlib.contextmanager
def started(tmp_path, step_seconds, drain_seconds, reason="length"):
    """A server in a process of its own, and its port."""
    file = tmp_path / "address"
    arguments = map(str, [file, step_seconds, drain_seconds, reason])
    command = [sys.executable, "-m", "tests.fake_service", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(3000):
            if file.exists() and file.read_text():
                break
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        yield process, int(file.read_text().rpartition(":")[2])
    finally:
        process.kill()
        process.communicate()


def ask(port, **body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"Content-Type": "application/json"}
    body = {"prompt": "hi", "max_tokens": 100} | body
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    return connection


def parts_of(answer):
    """The choices of a stream, which has its last line."""
    *parts, last = answer.read().decode().strip().split("\n\n")
    assert last == "data: [DONE]"
    return [json.loads(part.removeprefix("data: "))["choices"][0] for part in parts]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_what_is_under_way_is_done(tmp_path, signum):
    with started(tmp_path, 0.05, 20) as (process, port):
        stream = ask(port, stream=True).getresponse()
        line = stream.fp.readline()  # The size of the first part.
        plain = ask(port)
        time.sleep(0.2)

        process.send_signal(signum)
        time.sleep(0.3)

        late = ask(port).getresponse()
        assert (late.status, late.headers["Retry-After"]) == (503, "5")
        assert json.loads(late.read())["error"]["code"] == "draining"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 503
        assert line.strip()
        assert b"[DONE]" in stream.fp.read()
        assert json.loads(plain.getresponse().read())["choices"][0]["text"] == TEXT
        assert process.wait(20) == 0


def test_what_is_not_done_in_time_is_cut_with_a_reason(tmp_path):
    with started(tmp_path, 0.5, 1) as (process, port):  # A text would take 15 s.
        answers = [ask(port, stream=True) for _ in range(4)]  # Two of which wait.
        time.sleep(1)
        began = time.monotonic()

        process.send_signal(signal.SIGTERM)

        for connection in answers:
            choices = parts_of(connection.getresponse())
            text = "".join(choice["text"] for choice in choices)
            assert TEXT.startswith(text)
            assert text != TEXT
            assert choices[-1]["finish_reason"] == "length"
        assert process.wait(20) == 0
        assert time.monotonic() - began < 12


def test_a_second_signal_cuts_at_once(tmp_path):
    with started(tmp_path, 0.2, 1000) as (process, port):
        connection = ask(port, stream=True)
        time.sleep(0.5)

        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)

        assert parts_of(connection.getresponse())[-1]["finish_reason"] == "length"
        assert process.wait(10) == 0
        said = process.stderr.read()
        assert "SIGTERM: ends within 1000 s, when what is under way is done" in said
        assert "cutting what is under way" in said


def test_a_server_that_does_nothing_ends_at_once(tmp_path):
    with started(tmp_path, 0.1, 1000) as (process, port):
        idle = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        idle.request("GET", "/health")
        assert idle.getresponse().read() == b'{"status":"ok"}'

        process.send_signal(signal.SIGTERM)

        assert process.wait(5) == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_whose_model_has_failed_ends_so_that_another_is_started(tmp_path, stream):
    with started(tmp_path, 0.01, 1000, "error") as (process, port):
        answer = ask(port, stream=stream).getresponse()
        text = answer.read().decode()

        assert answer.status == (200 if stream else 500)
        *_, last = text.strip().split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "failed"
        assert process.wait(10) == 1
        assert "the model failed" in process.stderr.read()
