"""How a server works beside its answers: queues, clients that leave, keys, logs and metrics."""

import contextlib
import http.client
import json
import os
import pathlib
import random
import re
import socket
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lm.errors import UserError
from lm.serve import access, answering, connections, server
from tests import fake_service
from tests.fake_service import TEXT

COMPLETIONS = "/v1/completions"
KEY = b"a key of many letters".replace(b" ", b"-")


@contextlib.contextmanager
def serving(folder, service, **settings):
    """An application with one model of this service, and the lines that it logs."""
    lines = []
    application = fake_service.make_app(
        [fake_service.make_model(folder / "model", service)], say=lines.append, **settings
    )
    with fake_service.Served(application) as served:
        served.application, served.lines = application, lines
        yield served
    service.close()


def ask(served, path=COMPLETIONS, headers=(), timeout=20, **body):
    """A connection on which a request was sent."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=timeout)
    headers = {"Content-Type": "application/json", **dict(headers)}
    body = {"prompt": "hi", "max_tokens": 100} | body
    connection.request("POST" if body else "GET", path, json.dumps(body), headers)
    return connection


def get(served, path, headers=()):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    connection.request("GET", path, headers=dict(headers))
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def wait_for(condition, seconds=10):
    """Waits until a condition holds; says how many seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.005)
    return time.monotonic() - began


def metrics_of(served, headers=()):
    """Values by name and labels, as a parser of Prometheus reads them."""
    _, body = get(served, "/metrics", headers)
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot_within_two_steps(tmp_path, stream):
    service = fake_service.FakeService(step_seconds=0.3, slots=1)
    with serving(tmp_path, service) as served:
        connection = ask(served, stream=stream)
        wait_for(lambda: service.num_steps > 2)
        if stream:
            connection.getresponse().fp.readline()
        steps = service.num_steps
        connection.close()

        wait_for(lambda: not service.stats()["active"])

        assert service.num_steps - steps <= 2
        wait_for(lambda: served.lines)
        assert " 499 POST /v1/completions " in served.lines[0]
        assert metrics_of(served)["lm_cancelled_total",] == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_it_waits_is_forgotten(tmp_path, stream):
    service = fake_service.FakeService(step_seconds=0.3, slots=1)
    with serving(tmp_path, service) as served:
        first, second = ask(served), ask(served, stream=stream)
        wait_for(lambda: service.stats()["waiting"] == 1)
        steps = service.num_steps
        second.close()

        wait_for(lambda: service.stats()["waiting"] == 0)

        assert service.num_steps - steps <= 2
        assert service.stats()["active"] == 1
        first.close()


def test_nothing_is_left_of_many_clients_half_of_which_leave(tmp_path):
    service = fake_service.FakeService(step_seconds=0.002, slots=8, max_waiting=200)
    fds, rng = lambda: len(os.listdir("/proc/self/fd")), random.Random(0)
    with serving(tmp_path, service) as served:
        first = ask(served)  # The thread that reads prompts begins with the first.
        first.getresponse().read()
        first.close()
        threads, before = threading.active_count(), fds()

        def one(leaves, stream, lines):
            connection = ask(served, stream=stream)
            if leaves and not stream:
                connection.close()
                return
            answer = connection.getresponse()
            for _ in range(lines if leaves else 0):
                answer.fp.readline()
            if not leaves:
                answer.read()
            connection.close()

        asked = [(i % 2 == 0, rng.random() < 0.5, rng.randrange(20)) for i in range(120)]
        for first in range(0, 120, 40):
            some = asked[first : first + 40]
            clients = [threading.Thread(target=one, args=each) for each in some]
            for client in clients:
                client.start()
            for client in clients:
                client.join()

        wait_for(lambda: len(served.lines) >= 121)
        stats = service.stats()
        assert (stats["active"], stats["waiting"]) == (0, 0)
        wait_for(lambda: threading.active_count() <= threads, seconds=60)
        wait_for(lambda: fds() <= before, seconds=60)
        statuses = [line.split()[1] for line in served.lines]
        assert {*statuses} == {"200", "499"}
        assert statuses.count("200") >= 61


def test_a_full_queue_refuses_with_a_time_to_come_back(tmp_path):
    service = fake_service.FakeService(step_seconds=0.01, slots=1, max_waiting=2)
    with serving(tmp_path, service) as served:
        connections = [ask(served) for _ in range(20)]
        most = 0
        answers = []
        for connection in connections:
            most = max(most, service.stats()["waiting"])
            answers.append(connection.getresponse())
            answers[-1].read()
            connection.close()

    statuses = [answer.status for answer in answers]
    assert {*statuses} == {200, 429}
    assert statuses.count(200) >= 3
    assert most <= 2
    refused = answers[statuses.index(429)]
    assert refused.headers["Retry-After"] == "2"


def test_several_prompts_are_taken_together_or_not_at_all(tmp_path):
    service = fake_service.FakeService(step_seconds=0.05, slots=1, max_waiting=2)
    with serving(tmp_path, service) as served:
        first = ask(served)
        wait_for(lambda: service.stats()["active"])
        second = ask(served)
        wait_for(lambda: service.stats()["waiting"] == 1)

        both = ask(served, prompt=["a", "b"]).getresponse()

        assert both.status == 429
        wait_for(lambda: service.stats()["waiting"] == 1, seconds=1)
        first.close()
        second.close()


def test_a_service_that_takes_no_more_is_told(tmp_path):
    service = fake_service.FakeService()
    with serving(tmp_path, service) as served:
        service.takes = False
        answer = ask(served).getresponse()
        value = json.loads(answer.read())

        assert (answer.status, value["error"]["type"]) == (500, "server_error")
        assert served.application.has_failed.is_set()


def test_a_silent_stream_is_kept_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "_PING_SECONDS", 0.05)
    service = fake_service.FakeService(step_seconds=0.2)
    with serving(tmp_path, service) as served:
        answer = ask(served, stream=True, max_tokens=3).getresponse()
        lines = answer.read().decode().split("\n\n")

    assert ": ping" in lines
    parts = [line for line in lines if line and line != ": ping"]
    assert parts[-1] == "data: [DONE]"
    texts = [json.loads(part.removeprefix("data: "))["choices"][0]["text"] for part in parts[:-1]]
    assert "".join(texts) == TEXT[:3]
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"


def told(connection):
    """What comes of a socket until it is closed from the other side."""
    data = b""
    connection.settimeout(20)
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(10_000):
            data += part
    return data


def test_connections_that_say_nothing_or_not_all_are_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr(connections, "IDLE_SECONDS", 3)
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    with serving(tmp_path, fake_service.FakeService(step_seconds=0.06)) as served:
        open_one = lambda: socket.create_connection(("127.0.0.1", served.port))
        silent, slow, again, whole = (open_one() for _ in range(4))
        slow.sendall(head)
        for part in (head, b"\r\n"):  # Done in time; then half of another.
            again.sendall(part)
        data = b""
        while not data.endswith(b'{"status":"ok"}'):
            data += again.recv(10_000)
        again.sendall(head)
        began = time.monotonic()
        whole.sendall(head + b"\r\n")
        answer = ask(served)  # Takes longer than a head may.

        assert told(silent) == told(slow) == told(again) == b""
        assert told(whole).endswith(b'{"status":"ok"}')
        assert time.monotonic() - began > 2.5
        assert answer.getresponse().status == 200


def unread(served, **settings):
    """A client that asks for much, and has room for little of it."""
    body = json.dumps({"prompt": "ab", "max_tokens": 40, "n": 64, "stop": []} | settings).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # Before it connects.
    client.connect(("127.0.0.1", served.port))
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return client


@pytest.mark.parametrize("settings", [{"stream": True}, {"logprobs": 3, "n": 128}])
def test_a_client_that_reads_nothing_is_cut_and_one_that_reads_slowly_is_not(
    tmp_path, monkeypatch, settings
):
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.5)
    monkeypatch.setattr(connections, "IDLE_SECONDS", 1)
    service = fake_service.FakeService()
    with serving(tmp_path, service) as served:
        with unread(served, **settings):
            wait_for(lambda: service.asked)
            wait_for(lambda: not served.connections)
            assert service.stats()["active"] == 0
        data, began = b"", time.monotonic()
        with unread(served, **settings) as slow:
            slow.settimeout(20)
            while part := slow.recv(10_000):
                data += part
                time.sleep(0.01)

    assert time.monotonic() - began > 1.0
    assert data.startswith(b"HTTP/1.1 200 ")
    assert data.count(b'"finish_reason":"length"') + data.count(b'"finish_reason": "length"') == (
        settings.get("n", 64)
    )


def test_too_many_connections_are_told_to_come_back(tmp_path):
    service = fake_service.FakeService()
    lines = []
    model = fake_service.make_model(tmp_path / "model", service)
    application = fake_service.make_app([model], say=lines.append)
    with fake_service.Served(application, max_connections=3) as served:
        held = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(3)]
        data = told(socket.create_connection(("127.0.0.1", served.port)))
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 5" in head
        assert json.loads(body)["error"]["code"] == "too_many_connections"
        for one in held:
            one.close()
        wait_for(lambda: get_status(served) == 200)
    service.close()


def get_status(served):
    with contextlib.suppress(OSError, http.client.HTTPException):
        return get(served, "/health")[0].status


def test_requests_have_names(tmp_path):
    with serving(tmp_path, fake_service.FakeService()) as served:
        own, _ = get(served, "/health", {"X-Request-ID": "mine.1"})
        made = [get(served, "/health")[0].headers["X-Request-ID"] for _ in range(2)]
        other, _ = get(served, "/health", {"X-Request-ID": "a b\tc"})

    assert own.headers["X-Request-ID"] == "mine.1"
    assert made[0] != made[1]
    assert re.fullmatch("[0-9a-f]{32}", other.headers["X-Request-ID"])


def test_metrics_count_what_was_done(tmp_path):
    with serving(tmp_path, fake_service.FakeService()) as served:
        for settings in ({}, {"stream": True}, {"n": 0}):
            ask(served, **settings).getresponse().read()
        wait_for(lambda: len(served.lines) == 3)
        found = metrics_of(served)

    num_new = len(TEXT.encode())
    requests = lambda status: ("lm_requests_total", ("path", COMPLETIONS), ("status", status))
    assert (found[requests("200")], found[requests("400")]) == (2, 1)
    assert found["lm_tokens_total", ("kind", "new")] == 2 * num_new
    assert found["lm_tokens_total", ("kind", "prompt")] == 6
    for name in ("first_token", "between_tokens"):
        assert found[f"lm_{name}_seconds_count",] == 2
        assert found[f"lm_{name}_seconds_bucket", ("le", "+Inf")] == 2
    assert found["lm_request_seconds_count",] == 3
    assert found["lm_request_seconds_sum",] > 0


def test_a_key_guards_all_but_health(tmp_path):
    with serving(tmp_path, fake_service.FakeService(), key=KEY) as served:
        assert get(served, "/health")[0].status == 200
        for path in ("/metrics", "/v1/models", "/nothing"):
            answer, body = get(served, path)
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert json.loads(body)["error"]["code"] == "invalid_api_key"
        known = {"Authorization": f"Bearer {KEY.decode()}"}
        for wrong in ("", "Bearer", "Bearer x", f"Basic {KEY.decode()}", f"Bearer {KEY.decode()}x"):
            assert ask(served, headers={"Authorization": wrong}).getresponse().status == 401
        assert get(served, "/v1/models", known)[0].status == 200
        assert ask(served, headers=known).getresponse().status == 200


def test_a_name_that_is_not_the_servers_is_refused(tmp_path):
    with serving(tmp_path, fake_service.FakeService(), names=("gpu.example",)) as served:
        for name in ("localhost", f"127.0.0.1:{served.port}", "[::1]:80", "GPU.example:443"):
            assert get(served, "/v1/models", {"Host": name})[0].status == 200
        for name in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""):
            answer, _ = get(served, "/v1/models", {"Host": name})
            assert answer.status == 421
        # Nor may pages of other sites read or send anything.
        answer, _ = get(served, "/v1/models", {"Origin": "http://evil.example"})
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_logs_hold_no_text_and_no_key(tmp_path, capfd):
    canary = "canary4711"
    service = fake_service.FakeService()
    known = {"Authorization": f"Bearer {KEY.decode()}"}
    with serving(tmp_path, service, key=KEY) as served:
        for body in (
            {"prompt": canary},
            {"prompt": canary, "stream": True, "stop": [canary], "user": canary},
            {"prompt": canary, canary: 1},
            {"prompt": [canary, 5]},
            {"model": canary},
        ):
            ask(served, headers=known, **body).getresponse().read()
        ask(served, f"/{canary}?q={canary}", known).getresponse().read()
        ask(served, headers={"Authorization": f"Bearer {canary}"}).getresponse().read()
        service.submit = lambda *_: 1 / 0 if canary else None  # A bug.
        answer = ask(served, headers=known, prompt=canary).getresponse()
        error = json.loads(answer.read())["error"]
        wait_for(lambda: len(served.lines) == 9)

    assert (answer.status, error["code"]) == (500, "failed")
    text = "\n".join(served.lines) + "".join(capfd.readouterr())
    assert "ZeroDivisionError" in text
    assert "prompt=11 new=30" in text
    assert canary not in text
    assert KEY.decode() not in text
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY not in path.read_bytes()


def test_a_slow_client_gets_all_of_a_stream(tmp_path):
    with serving(tmp_path, fake_service.FakeService()) as served:
        answer = ask(served, stream=True, n=64).getresponse()
        time.sleep(0.3)
        text = answer.read().decode()

    assert text.endswith("data: [DONE]\n\n")
    assert text.count('"finish_reason":"length"') + text.count('"finish_reason": "length"') == 64


KEYS = {
    "empty": (b"", 0o600, "holds no key"),
    "short": (b"abc\n", 0o600, "holds no key"),
    "two lines": (b"a" * 20 + b"\n" + b"b" * 20, 0o600, "holds no key"),
    "no ASCII": ("ключ".encode() * 5, 0o600, "holds no key"),
    "read by others": (b"a" * 20, 0o644, "may be read by others (mode 0644)"),
    "read by a group": (b"a" * 20, 0o640, "chmod 600"),
    "not there": (None, 0, "No such file"),
}


@pytest.mark.parametrize("name", KEYS)
def test_a_file_that_is_no_key_is_refused(tmp_path, name):
    contents, mode, message = KEYS[name]
    path = tmp_path / "key"
    if contents is not None:
        path.write_bytes(contents)
        path.chmod(mode)

    with pytest.raises(UserError, match=re.escape(message)):
        access.read_key(str(path), {})


def test_a_key_comes_from_a_file_or_the_environment(tmp_path):
    path, environ = tmp_path / "key", {"LM_API_KEY": KEY.decode(), "HOME": "x"}
    path.write_bytes(KEY + b"\n")
    path.chmod(0o400)

    assert access.read_key("", environ) == KEY
    assert environ == {"HOME": "x"}  # No child process gets it.
    assert access.read_key(str(path), environ) == KEY
    assert access.read_key("", {}) is None
    with pytest.raises(UserError, match="both set"):
        access.read_key(str(path), {"LM_API_KEY": KEY.decode()})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "gpu.example", ""])
def test_listening_beyond_the_machine_takes_a_key(host):
    with pytest.raises(UserError, match="takes a key"):
        access.Access(None, host)
    headers = {"host": "any", "authorization": f"Bearer {KEY.decode()}"}
    access.Access(KEY, host).check(headers, needs_key=True)
    for own in ("127.0.0.1", "localhost", "::1"):
        access.Access(None, own)


def test_a_port_that_is_taken_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port={port} cannot be listened at: Address already"):
            server.bind("127.0.0.1", port)
    with pytest.raises(UserError, match="host=nowhere,"):
        server.bind("nowhere", 80)


def test_what_serving_needs_is_named():
    text = (pathlib.Path(__file__).parents[2] / "requirements-serve.txt").read_text()

    assert re.findall(r"^[a-z]+", text, re.M) == ["starlette", "uvicorn"]
