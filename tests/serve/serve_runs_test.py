"""What is served of real models is what the programs write of the same, to the byte."""

import concurrent.futures
import http.client
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import openai
import pytest
import transformers

from configs import serve as serve_config
from experiments import serve
from lm.errors import UserError
from lm.generation import sampling
from lm.generation.requests import FinishEvent, GenerationRequest, Sampling, TokenEvent
from lm.models.int8 import quantize_for_decoding
from lm.models.kv_cache import unstack_for_decoding
from lm.serve import opening
from lm.serve.metrics import Metrics
from tests import fake_service
from tests.generate_test import CHATS, FOLDERS, PROMPTS, TURNS, make_folder, write
from tests.serve_models import open_model

ROOT = pathlib.Path(__file__).parents[2]
KEY = "a-key-of-many-letters"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    make_folder(folder / "chat", "gpt2", "<|first|> $A", "<|first|>", "llama", TURNS)
    make_folder(folder / "pieces", *FOLDERS["Metaspace"])
    make_folder(folder / "t5", *FOLDERS["T5"])
    return folder


@pytest.fixture(scope="module")
def served(folders):
    models = [open_model(name, folders / name) for name in ("chat", "pieces", "t5")]
    for model in models:
        model.service.warm()
    application = fake_service.make_app(models)
    opening.add_readings(application._metrics, models)
    with fake_service.Served(application) as served:
        served.models = {model.name: model for model in models}
        yield served
    for model in models:
        model.service.close()


@pytest.fixture(scope="module")
def client(served):
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def compilations(served):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    return int(re.search(r"^lm_compilations_total (\d+)$", text, re.M)[1])


def texts(client, model, prompt, stream=False, **settings):
    """Texts behind a prompt with why they ended, from an answer or from a stream."""
    asked = dict(model=model, prompt=prompt, max_tokens=10, stream=stream) | settings
    found = client.completions.create(**asked)
    choices = [c for part in found for c in part.choices] if stream else found.choices
    by_index = {}
    for choice in choices:
        text, _ = by_index.get(choice.index, ("", None))
        by_index[choice.index] = text + choice.text, choice.finish_reason
    return [by_index[i] for i in sorted(by_index)]


@pytest.mark.parametrize("name", ["chat", "pieces", "t5"])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_texts_are_those_of_generate_whoever_else_is_served(
    served, client, folders, tmp_path, name, temperature
):
    settings = dict(temperature=temperature, top_p=0.95)
    stop = ("e", "th")
    written = {
        (prompt, seed): write(
            folders / name, tmp_path, raw=True, prompt=prompt, seed=seed, num_samples=8, stop=stop,
            **settings,
        )
        for prompt, seed in zip(PROMPTS[:3], (0, 7, 2**32 - 1), strict=True)
    }  # fmt: skip
    asked = [*written] * 4

    def one(i):
        prompt, seed = asked[i]
        return texts(client, name, prompt, i % 2 == 0, n=8, seed=seed, stop=stop, **settings)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        found = list(pool.map(one, range(len(asked))))

    for key, choices in zip(asked, found, strict=True):
        expected = [(line["text"], line["finish_reason"]) for line in written[key]]
        assert choices == expected
    assert len({text for choices in found for text, _ in choices}) > 2


def test_eight_bits_write_what_sampling_writes_with_them(folders):
    model = open_model("pieces", folders / "pieces", int8=True)
    run = model.run
    params = unstack_for_decoding(run.params, "float32")
    prompts = [model.reader.prompt_ids(text) for text in PROMPTS[:3]]
    settings = dict(max_new_tokens=10, temperature=0.0, top_k=0, top_p=1.0, stop_ids=[])
    expected = sampling.generate(
        *(run.model, quantize_for_decoding(params), prompts, jax.random.key(0)),
        vocab_size=run.tokenizer.vocab_size,
        **settings,
    )
    exact = sampling.generate(
        *(run.model, params, prompts, jax.random.key(0)),
        vocab_size=run.tokenizer.vocab_size,
        **settings,
    )

    mailbox: dict[int, list] = {i: [] for i in range(3)}
    ended = threading.Event()
    for i, prompt in enumerate(prompts):

        def emit(event, i=i):
            mailbox[i].append(event)
            if all(x and isinstance(x[-1], FinishEvent) for x in mailbox.values()):
                ended.set()

        greedy = Sampling(temperature=0.0)
        model.service.submit(GenerationRequest(tuple(prompt), 10, greedy), emit)
    assert ended.wait(120)
    model.service.close()

    found = [[x.token for x in events if isinstance(x, TokenEvent)] for events in mailbox.values()]
    assert found == expected
    assert found != exact


def test_answers_are_those_of_generate(client, folders, tmp_path):
    for chat in CHATS:
        (written,) = write(
            folders / "chat", tmp_path, [{"messages": chat}], temperature=1.0, seed=5
        )
        asked = dict(model="chat", messages=chat, max_tokens=10, temperature=1.0, top_p=0.95)
        (choice,) = client.chat.completions.create(seed=5, **asked).choices

        assert choice.message.content == written["text"]
        assert choice.finish_reason == written["finish_reason"]


def test_what_only_writes_makes_no_vectors(client):
    with pytest.raises(openai.BadRequestError, match="chat makes no vectors of texts") as caught:
        client.embeddings.create(model="chat", input="the thing")

    assert caught.value.code == "model_not_supported"


def test_a_conversation_is_laid_out_as_transformers_does(served, client, folders, monkeypatch):
    theirs = transformers.AutoTokenizer.from_pretrained(folders / "chat")
    service = served.models["chat"].service
    asked, submit = [], service.submit
    monkeypatch.setattr(
        service, "submit", lambda request, emit: asked.append(request) or submit(request, emit)
    )

    for chat in CHATS:
        client.chat.completions.create(model="chat", messages=chat, max_tokens=1)

    layout = lambda chat: theirs.apply_chat_template(chat, add_generation_prompt=True)
    assert [list(one.prompt) for one in asked] == [layout(chat)["input_ids"] for chat in CHATS]


def test_nothing_is_compiled_once_it_is_ready(served, client):
    texts(client, "chat", "the thing")
    before = compilations(served)

    for settings in (
        dict(prompt="the " * 60, max_tokens=3, logprobs=3, echo=True),
        dict(prompt=["a", "b"], n=9, temperature=0.7, max_tokens=40, extra_body={"top_k": 3}),
        dict(prompt="x", max_tokens=80, extra_body={"min_p": 0.1, "repetition_penalty": 1.2}),
        dict(prompt="in the", extra_body={"guided_choice": ["thing", "x y z"]}),
        dict(prompt=[5] * 95, max_tokens=1, logprobs=0, top_p=0.5),
    ):
        for model in ("chat", "pieces"):
            client.completions.create(model=model, **settings)
        if not settings.keys() & {"echo"} and "guided_choice" not in settings.get("extra_body", {}):
            client.completions.create(model="t5", **settings)

    assert compilations(served) == before


def test_a_checkpoint_that_goes_away_is_served_on(folders, tmp_path):
    shutil.copytree(folders / "chat", tmp_path / "copy")
    model = open_model("copy", tmp_path / "copy")
    with fake_service.Served(fake_service.make_app([model])) as served:
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
        ask = lambda: texts(client, "copy", "the", temperature=0)
        before = ask()
        shutil.rmtree(tmp_path / "copy")
        assert ask() == before
    model.service.close()


def test_a_model_that_ends_no_text_writes_as_much_as_it_may(folders, tmp_path):
    shutil.copytree(folders / "chat", tmp_path / "endless")
    for file, name in (("tokenizer_config.json", "eos_token"), ("config.json", "eos_token_id")):
        path = tmp_path / "endless" / file
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: None}))
    (tmp_path / "endless/generation_config.json").unlink()
    model = open_model("endless", tmp_path / "endless")
    assert model.stops((), None).ids == ()
    with fake_service.Served(fake_service.make_app([model])) as served:
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
        found = client.completions.create(model="endless", prompt="the", max_tokens=40)
        assert found.usage.completion_tokens == 40
        assert found.choices[0].finish_reason == "length"
    model.service.close()


def run(**settings):
    config = serve_config.get_config()
    config.update_from_flattened_dict(settings)
    return serve.run(config.lock(), None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "checkpoint is not set"),
        ({"checkpoint": "a,b/a"}, "has two models named a; write NAME=FOLDER for one"),
        ({"checkpoint": "a", "host": "0.0.0.0"}, "takes a key"),
        ({"checkpoint": "a", "key_file": "nowhere"}, "key_file=nowhere cannot be read"),
        ({"checkpoint": "nowhere", "port": 0}, "nowhere does not exist"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(monkeypatch, tmp_path, settings, message):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UserError, match=re.escape(message)) as caught:
        run(**settings)

    assert "\n" not in str(caught.value)


def test_a_length_beyond_the_positions_is_refused(folders):
    with pytest.raises(UserError, match="max_len=1000 exceeds the 128 positions"):
        run(checkpoint=str(folders / "chat"), max_len=1000, port=0)
    with pytest.raises(UserError, match="reads any number of tokens; set it"):
        run(checkpoint=str(folders / "t5"), port=0)


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in [name for name in sys.modules if name.startswith("lm.serve")]:
        monkeypatch.delitem(sys.modules, name)

    with pytest.raises(UserError, match=r"needs uvicorn; run: pip install -r requirements-serve"):
        run(checkpoint="a")


def test_the_program_serves_until_it_is_told_to_stop(folders, tmp_path):
    """As a user starts it; neither the key nor a text is in what it prints or writes."""
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(0o600)
    command = [sys.executable, str(ROOT / "launch.py"), f"--config={ROOT}/configs/serve.py"]
    settings = dict(checkpoint=f"tiny={folders}/chat", port=0, max_len=64, num_slots=8)
    settings["key_file"] = tmp_path / "key"
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    process = subprocess.Popen(
        [*command, f"--workdir={tmp_path}/work"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "err").open("w"),
        text=True,
    )
    try:
        ready = process.stdout.readline()
        match = re.fullmatch(r"ready at (http://127\.0\.0\.1:\d+/v1)\n", ready)
        about = process.stdout.readline()
        assert re.fullmatch(
            r"  tiny: writes; 0\.1 MB of weights; 8 slots of 64 tokens; [\d.]+ MB of caches to "
            r"begin with\n",
            about,
        )
        client = openai.OpenAI(base_url=match[1], api_key=KEY, max_retries=0)
        stream = client.completions.create(
            model="tiny", prompt="canary4711", max_tokens=40, stream=True, temperature=0
        )
        first = next(iter(stream))
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        parts = [first, *stream]
        assert parts[-1].choices[0].finish_reason in ("length", "stop")
        assert process.wait(20) == 0
        assert time.monotonic() - began < 15
    finally:
        process.kill()
        rest, _ = process.communicate()
    said = ready + about + rest + (tmp_path / "err").read_text()
    assert " 200 POST /v1/completions " in said
    assert not (tmp_path / "work").exists()
    assert "canary" not in said
    assert KEY not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["err", "key"]


def test_metrics_tell_of_each_model(served):
    metrics = Metrics()
    opening.add_readings(metrics, list(served.models.values()))

    text = metrics.text()

    assert 'lm_slots{model="chat",work="writes"} 8' in text
    assert re.search(r'^lm_steps_total\{model="t5",work="writes"\} \d+$', text, re.M)
