"""What a run writes, beside `transformers` and by itself."""

import io
import json
import re
import sys

import pytest
import tokenizers as hf
import torch
import transformers
from tokenizers import processors

from configs import convert as convert_config
from configs import generate as generate_config
from experiments import convert, generate
from experiments.wiring.number_ranges import check_numbers
from lm.errors import UserError
from tests.tiny_tokenizers import tokenizer_of

V = 448  # The same for all, so that few programs are compiled.
SPECIAL = ("<|first|>", "<|end|>", "<|turn|>", "<|stop|>")
TURNS = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|stop|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
PROMPTS = (
    "the thing",
    "北京是",
    "  in the",
    "a <|stop|> b",
    "x",
    "He said: \u201cthe\u201d\tthing ",
)
CHATS = (
    [{"role": "user", "content": "the thing"}],
    [{"role": "system", "content": "in the"}, {"role": "user", "content": "北京是"}],
    [
        {"role": "user", "content": c} | ({"role": "assistant"} if c == "he" else {})
        for c in ["a", "he", "b"]
    ],
)
# Of each: the pieces, what stands around a text, the first token's name, the architecture.
FOLDERS = {
    "nothing around, no first": ("gpt2", "$A", None, "llama"),
    "nothing around, a first": ("gpt2", "$A", "<|first|>", "llama"),
    "a first around": ("gpt2", "<|first|> $A", "<|first|>", "llama"),
    "an end around": ("gpt2", "$A <|end|>", "<|first|>", "llama"),
    "both around": ("llama", "<|first|> $A <|end|>", "<|first|>", "llama"),
    "Metaspace": ("llama", "<|first|> $A", "<|first|>", "llama"),
    "unigram": ("unigram bytes", "$A", None, "llama"),
    "GPT-2": ("gpt2", "$A", "<|end|>", "gpt2"),
    "Chinese GPT-2": ("bert", "<|first|> $A <|end|>", None, "gpt2"),
    "T5": ("unigram bytes", "$A <|end|>", None, "t5"),
}
MODELS = {
    "llama": lambda **ids: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=V,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=128,
            **ids,
        )
    ),
    "gpt2": lambda **ids: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=V, n_positions=128, n_embd=16, n_layer=1, n_head=2, **ids
        )
    ),
    "t5": lambda **ids: transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=V, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, **ids
        )
    ),
}


def make_folder(folder, kind, around, first, architecture, template=None):
    """A random model of `transformers` with a tokenizer; what it writes is far from uniform."""
    tokenizer_of(kind).save(folder)
    parts = json.loads((folder / "tokenizer.json").read_text())
    pieces = parts["model"]["vocab"]
    more = [f"q{i}" for i in range(len(pieces), V - len(SPECIAL))]  # As many as the model has.
    if isinstance(pieces, dict):
        pieces |= {piece: i for i, piece in enumerate(more, len(pieces))}
    else:
        pieces += [[piece, -20.0] for piece in more]
    library = hf.Tokenizer.from_str(json.dumps(parts))
    library.add_special_tokens(list(SPECIAL))
    ids = {name: library.token_to_id(name) for name in SPECIAL}
    library.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=list(ids.items())
    )
    (folder / "kind.txt").unlink()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=library, bos_token=first, eos_token="<|end|>", pad_token="<|turn|>"
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    names = dict(
        bos_token_id=ids.get(first), eos_token_id=ids["<|end|>"], pad_token_id=ids["<|turn|>"]
    )
    if architecture == "t5":
        names["decoder_start_token_id"] = names["pad_token_id"]
    model = MODELS[architecture](**names).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def stop_at(folder, ids, **more):
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": ids} | more))


class Theirs:
    """A folder as `transformers` opens it."""

    def __init__(self, folder):
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        auto = transformers.AutoModelForCausalLM
        self.is_t5 = json.loads((folder / "config.json").read_text())["model_type"] == "t5"
        if self.is_t5:
            auto = transformers.AutoModelForSeq2SeqLM
        self.model = auto.from_pretrained(folder).eval()

    def ids(self, text):
        """Of a prompt; an end behind it would end it before it has begun."""
        ids = self.tokenizer(text)["input_ids"]
        return ids if self.is_t5 or ids[-1] != self.tokenizer.eos_token_id else ids[:-1]

    def new(self, ids, num=10):
        """The new tokens, and whether something ended them."""
        with torch.no_grad():
            ids_1L = torch.tensor([ids])
            mask_1L = torch.ones_like(ids_1L)  # Else it would mask the pad token in a prompt.
            settings = dict(do_sample=False, max_new_tokens=num)
            out = self.model.generate(ids_1L, attention_mask=mask_1L, **settings)
        new = out[0, 1 if self.is_t5 else len(ids) :].tolist()
        ends = self.model.generation_config.eos_token_id
        ended = new[-1] in (ends if isinstance(ends, list) else [ends])
        return new, ended

    def text(self, ids, new):
        decode = lambda x: self.tokenizer.decode(
            x, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decode(new) if self.is_t5 else decode(ids + new)[len(decode(ids)) :]


def import_folder(source, target):
    config = convert_config.get_config()
    config.update(source=str(source), target=str(target))
    assert convert.run(config, target) == 0
    return target


def write(checkpoint, tmp_path, lines=None, **settings):
    """The lines of the output of `generate`."""
    config = generate_config.get_config()
    config.update(checkpoint=str(checkpoint), temperature=0.0, max_new_tokens=10)
    config.output = str(tmp_path / "out.jsonl")
    if lines is not None:
        config.prompts_file = str(tmp_path / "prompts.jsonl")
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (tmp_path / "prompts.jsonl").write_text(text)
    config.update_from_flattened_dict(settings)
    check_numbers(config.to_dict())  # As launch.py does for every experiment.
    assert generate.run(config.lock(), tmp_path) == 0
    return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]


def assert_same_text(theirs, ours):
    """Theirs loses characters beside a byte that is no UTF-8, those of a prompt, too."""
    parts = theirs.split("\ufffd")
    assert ours.startswith(parts[0]) and ours.endswith(parts[-1])
    assert len(parts) > 1 or ours == theirs


def assert_same(theirs, prompts, written):
    num_ended = 0
    for ids, found in zip(prompts, written, strict=True):
        new, ended = theirs.new(ids)
        text = theirs.text(ids, new[:-1] if ended else new)
        assert_same_text(text, found["text"])
        assert found["num_tokens"] == len(new) - ended
        assert found["finish_reason"] == ("stop" if ended else "length")
        num_ended += ended
    return num_ended


@pytest.mark.parametrize("name", FOLDERS)
def test_greedy_text_and_its_end_are_those_of_transformers(name, tmp_path):
    folder = make_folder(tmp_path / "hf", *FOLDERS[name])
    first = Theirs(folder)
    prompts = [first.ids(text) for text in PROMPTS]
    # Ends that some of these texts come to.
    new = [first.new(ids)[0] for ids in prompts]
    stop_at(folder, [first.tokenizer.eos_token_id, new[0][4], new[1][2]])

    run = import_folder(folder, tmp_path / "run")
    written = write(run, tmp_path, [{"prompt": text} for text in PROMPTS])

    assert [line["prompt"] for line in written] == list(PROMPTS)
    assert assert_same(Theirs(folder), prompts, written) > 0
    back = import_folder(run, tmp_path / "back")
    assert assert_same(Theirs(back), prompts, written) > 0


TEMPLATES = {
    "turns": TURNS,
    "a first token": "{{ bos_token }}" + TURNS,
    "no end": TURNS.replace("<|stop|>", ""),
    "a trimmed end": TURNS.replace("m.content", "m.content | trim").replace(
        "<|stop|>\n", "<|stop|>"
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_answers_and_their_end_are_those_of_transformers(kind, name, tmp_path, capsys):
    folder = make_folder(
        tmp_path / "hf", kind, "<|first|> $A", "<|first|>", "llama", TEMPLATES[name]
    )
    theirs = Theirs(folder)
    prompts = [
        theirs.tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        for chat in CHATS
    ]
    new = [theirs.new(ids)[0] for ids in prompts]
    ends = [new[0][3], new[1][5]]
    stop_at(folder, ends)
    run = import_folder(folder, tmp_path / "run")
    capsys.readouterr()

    written = write(run, tmp_path, [{"messages": chat} for chat in CHATS])

    assert ("ends no answer" in capsys.readouterr().err) == (name == "no end")
    back = Theirs(import_folder(run, tmp_path / "back"))
    own = [back.tokenizer.convert_tokens_to_ids(name) for name in ("<|end|>", "<|stop|>")]
    assert (
        back.model.generation_config.eos_token_id
        == [own[0], *ends, *own[1:]][: 3 + (name != "no end")]
    )
    for ids, found in zip(prompts, written, strict=True):
        new, ended = back.new(ids)
        text = back.tokenizer.decode(new[:-1] if ended else new, skip_special_tokens=True)
        assert_same_text(text, found["text"])
        assert (found["num_tokens"], found["finish_reason"] == "stop") == (len(new) - ended, ended)
    # A prompt is a user's message; a system's comes first.
    assert write(run, tmp_path, [{"prompt": "the thing"}])[0]["text"] == written[0]["text"]
    (again,) = write(run, tmp_path, system="in the", prompt="北京是")
    assert again["text"] == written[1]["text"]
    if name == "turns":  # A text as it stands may spell what the template writes.
        asked = "<|turn|>user\nthe thing<|stop|>\n<|turn|>assistant\n"
        (again,) = write(run, tmp_path, raw=True, prompt=asked)
        assert_same(back, [back.tokenizer(asked)["input_ids"]], [again])


def test_a_text_that_the_template_writes_behind_an_answer_ends_it(tmp_path, capsys):
    turns = TURNS.replace("<|stop|>\n", "{{ END if m.role == 'assistant' else '\\n' }}")
    assert turns != TURNS
    folder = make_folder(
        tmp_path / "hf", "gpt2", "$A", None, "llama", turns.replace("END", "'<|stop|>'")
    )
    (whole,) = write(folder, tmp_path, [{"messages": CHATS[0]}])
    begins = whole["text"].index(" ", 1)
    end = whole["text"][begins : begins + 3]
    (folder / "chat_template.jinja").write_text(turns.replace("END", json.dumps(end)))
    run = import_folder(folder, tmp_path / "run")
    capsys.readouterr()

    (found,) = write(run, tmp_path, [{"messages": CHATS[0]}])

    assert found["text"] == whole["text"][: whole["text"].index(end)]
    assert (found["finish_reason"], found["stop_reason"]) == ("stop", end)
    assert f"an answer ends at {end!r}, as the chat template writes it" in capsys.readouterr().err
    import_folder(run, tmp_path / "back")
    assert f"stop_strings=[{end!r}] and the tokenizer" in capsys.readouterr().out
    asked = "<|turn|>user\nthe thing\n<|turn|>assistant\n"  # That is no conversation.
    assert write(run, tmp_path, raw=True, prompt=asked)[0]["text"].strip() == whole["text"].strip()


def test_what_a_folder_asks_for_besides_comes_back_from_a_run(folder, tmp_path, capsys):
    run = import_folder(folder, tmp_path / "run")

    said = capsys.readouterr().out
    back = import_folder(run, tmp_path / "back")

    line = f"{folder}/generation_config.json asks for what counts only where it is given: "
    line += "--config.repetition_penalty=1.3"
    assert said.count(line) == 1
    theirs = transformers.GenerationConfig.from_pretrained(back)
    assert (theirs.repetition_penalty, theirs.eos_token_id) == (1.3, 445)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that goes on from texts, with nothing around them."""
    made = make_folder(tmp_path_factory.mktemp("hf"), *FOLDERS["nothing around, a first"])
    stop_at(made, 445, repetition_penalty=1.3)
    return made


def test_what_is_asked_together_is_written_as_if_asked_alone(folder, tmp_path):
    settings = dict(temperature=1.5, num_samples=2)
    together = write(folder, tmp_path, [{"prompt": text} for text in PROMPTS], **settings)

    alone = [
        line for text in PROMPTS[:3] for line in write(folder, tmp_path, prompt=text, **settings)
    ]

    assert together[:6] == alone
    assert len({line["text"] for line in together}) > 9
    assert [line["prompt"] for line in together] == [text for text in PROMPTS for _ in range(2)]


def test_drafts_change_no_text(folder, tmp_path, capsys):
    lines = [{"prompt": text} for text in (*PROMPTS[:3], PROMPTS[0], "a b a b a b a")]
    (whole,) = write(folder, tmp_path, lines[:1], max_new_tokens=40)
    for settings in (dict(), dict(temperature=1.0, num_samples=2, stop=(whole["text"][5:7],))):
        plain, drafted = (
            write(folder, tmp_path, lines, max_new_tokens=40, draft=draft, **settings)
            for draft in ("", "lookup")
        )
        assert drafted == plain

    with pytest.raises(UserError, match="num_beams=2 draws nothing that a draft could hold"):
        write(folder, tmp_path, lines, draft="lookup", num_beams=2)
    with pytest.raises(UserError, match="draft=look is neither lookup nor the folder of a run"):
        write(folder, tmp_path, lines, draft="look")


def test_a_run_that_drafts_changes_no_text(folder, tmp_path):
    lines = [{"prompt": text} for text in (*PROMPTS[:2], PROMPTS[0])]
    small = make_folder(tmp_path / "small", *FOLDERS["nothing around, a first"])
    other = make_folder(tmp_path / "other", *FOLDERS["GPT-2"])
    t5 = make_folder(tmp_path / "t5", *FOLDERS["T5"])
    damped = json.loads((small / "config.json").read_text()) | {"rms_norm_eps": 9.0}
    (small / "config.json").write_text(json.dumps(damped))  # So that it writes other texts.
    settings = dict(max_new_tokens=20, temperature=1.0, min_p=0.02, repetition_penalty=1.2)

    plain, by_small, drafted = (
        write(checkpoint, tmp_path, lines, draft=draft, **settings)
        for checkpoint, draft in ((folder, ""), (small, ""), (folder, str(small)))
    )

    assert drafted == plain
    assert by_small != plain
    assert len({line["text"] for line in plain}) == 3
    with pytest.raises(UserError, match=r"draft=.*other knows another tokenizer's ids; take a run"):
        write(folder, tmp_path, lines, draft=str(other))
    with pytest.raises(UserError, match="drafts are written by decoders alone"):
        write(t5, tmp_path, lines, draft=str(t5))


def test_what_was_read_and_written_comes_again_less_and_is_not_drawn_below_a_share(
    folder, tmp_path
):
    settings = dict(
        prompt="the thing", max_new_tokens=30, num_samples=4, temperature=3.0, top_p=1.0
    )
    num = lambda **more: len({x["text"] for x in write(folder, tmp_path, **settings | more)})

    assert num() == num(min_p=0.01) == 4
    assert num(min_p=1.0) == num(temperature=0.0) == 1
    greedy, other = (
        write(folder, tmp_path, **settings | dict(temperature=0.0, repetition_penalty=penalty))
        for penalty in (1.0, 1.3)
    )
    assert greedy != other


@pytest.mark.parametrize(
    "said, setting",
    [
        ("searches without repetition_penalty=1.3", {"repetition_penalty": 1.3}),
        ("searches without min_p=0.1", {"min_p": 0.1}),
        ("searches without top_k=5", {"top_k": 5}),
        ("temperature=-1.0 ", {"temperature": -1.0}),
    ],
)
def test_beams_refuse_what_is_about_drawing(folder, tmp_path, said, setting):
    with pytest.raises(UserError, match=re.escape(said)):
        write(folder, tmp_path, prompt="a", num_beams=2, **setting)


def test_stop_strings_cut_what_is_written(folder, tmp_path, capsys):
    (line,) = write(folder, tmp_path, prompt="the thing")
    stop = line["text"][3:5]

    (cut,) = write(folder, tmp_path, prompt="the thing", stop=(stop, "never"))
    capsys.readouterr()
    write(folder, tmp_path, prompt="the thing", stop=(stop,), output="")

    at = line["text"].index(stop)
    expected = {"text": line["text"][:at], "finish_reason": "stop", "stop_reason": stop}
    assert cut.items() >= expected.items()
    assert cut["num_tokens"] < line["num_tokens"]
    printed = capsys.readouterr()
    assert printed.out == "the thing" + cut["text"] + "\n"
    assert "only where it is given: --config.repetition_penalty=1.3" in printed.err
    # Long texts are looked at while they are written.
    asked = dict(lines=[{"prompt": text} for text in PROMPTS], max_new_tokens=90)
    whole = write(folder, tmp_path, **asked)
    stop = whole[0]["text"][-9:-6]
    for long, cut in zip(whole, write(folder, tmp_path, stop=(stop,), **asked), strict=True):
        assert cut["text"] == long["text"].split(stop)[0]
        assert cut["finish_reason"] == ("stop" if stop in long["text"] else long["finish_reason"])
    (named,) = write(folder, tmp_path, prompt="the thing", stop=("<|turn|>",))
    assert named == line  # It wrote no such token; what ends it need not be there.


class Screen(io.StringIO):
    """A terminal; keeps what it was given at once."""

    def __init__(self):
        super().__init__()
        self.given = []

    def isatty(self):
        return True

    def write(self, text):
        self.given.append(text)
        return super().write(text)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_text_comes_to_a_terminal_while_it_is_written(kind, beams, tmp_path, monkeypatch):
    checkpoint = make_folder(tmp_path / "hf", kind, "$A", None, "llama")
    settings = dict(prompt="the 北京", max_new_tokens=70, num_beams=beams)
    settings |= dict(temperature=0.8 * (beams == 1))
    (whole,) = write(checkpoint, tmp_path, **settings)
    stop = whole["text"][40:43]
    for stops in [(), (stop, whole["text"][0] + "\0")]:  # The first is held back.
        (line,) = write(checkpoint, tmp_path, stop=stops, **settings)
        config = generate_config.get_config()
        config.update(checkpoint=str(checkpoint), stop=stops, **settings)
        screen = Screen()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", screen)
            assert generate.run(config.lock(), tmp_path) == 0

        assert screen.getvalue() == f"the 北京{line['text']}\n"
        given = [text for text in screen.given if text.strip()]
        assert len(given) == 1 if beams > 1 else len(given) > line["num_tokens"] // 3
        assert line["stop_reason"] == stop or not stops


REFUSED = {
    "nan": ({"temperature": float("nan")}, "temperature=nan"),
    "infinite": ({"temperature": float("inf")}, "temperature=inf"),
    "a nucleus of all and more": ({"top_p": 1.5}, "top_p=1.5"),
    "no nucleus": ({"top_p": float("nan")}, "top_p=nan"),
    "a share": ({"min_p": 1.1}, "min_p=1.1 must lie in [0, 1]"),
    "no penalty": ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 must lie in [1e-6, 1e6]"),
    "a penalty": ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty=nan"),
    "a seed": ({"seed": -1}, "seed=-1"),
    "a large seed": ({"seed": 10**20}, "seed=10"),
    "a large k": ({"top_k": 10**10}, "top_k=10"),
    "no new tokens": ({"max_new_tokens": 0}, "max_new_tokens=0"),
    "no room": ({"max_new_tokens": 1000}, "128 positions"),
    "no stop": ({"stop": ("",)}, "empty text"),
    "no prompt": ({"prompt": ""}, "prompt is empty"),
    "half a character": ({"prompt": "a\udcff"}, "half a character"),
    "a system": ({"system": "s"}, "has no chat template"),
    "raw system": ({"system": "s", "raw": True}, "raw=True reads none"),
    "no rule": ({"data.on_error": "leave"}, "data.on_error='leave' is unknown"),
    "two prompts": ({"prompts_file": "x"}, "both set"),
    "no folder": ({"output": "no/where/out.jsonl"}, "no/where is no folder"),
    "a folder": ({"output": "."}, "output=. is a folder"),
    "a number": ({"stop": (5,)}, "stop=(5,) must hold texts"),
}
FILES = {
    "not there": ("prompts.txt", None, "No such file"),
    "not UTF-8": ("prompts.txt", b"a\xff\n", "is not UTF-8 (invalid start byte)"),
    "empty": ("prompts.txt", b"", "is empty"),
    "an empty line": ("prompts.txt", b"a\n\nb\n", "prompts.txt:2 is empty"),
    "json": ("prompts.json", b"[]", "call the file .jsonl"),
    "no lines": ("p.jsonl", b"\n\n", "is empty"),
    "no JSON": ("p.jsonl", b'{"prompt": "a"}\n{\n', "p.jsonl:2: not JSON"),
    "no object": ("p.jsonl", b"[]\n", "p.jsonl:1: holds a list"),
    "neither": ("p.jsonl", b'{"text": "a"}\n', 'write either {"prompt"'),
    "both": ("p.jsonl", b'{"prompt": "a", "messages": []}\n', 'write either {"prompt"'),
    "a number": ("p.jsonl", b'{"prompt": 1}\n', "is a number"),
    "half": ("p.jsonl", rb'{"prompt": "\ud800"}', "half a surrogate pair"),
    "messages": ("p.jsonl", b'{"messages": []}\n', "need a chat template"),
    "deep": ("p.jsonl", b"[" * 100_000, "deeper than can be read"),
}


@pytest.mark.parametrize("name", [*REFUSED, *FILES])
def test_what_cannot_be_written_is_refused_in_one_line(name, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name in REFUSED:
        settings, message = REFUSED[name]
        settings = {"prompt": "the"} | settings
    else:
        file, contents, message = FILES[name]
        settings = {"prompts_file": file}
        if contents is not None:
            (tmp_path / file).write_bytes(contents)
    before = set(tmp_path.iterdir())

    with pytest.raises(UserError) as caught:
        write(folder, tmp_path, **settings)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert set(tmp_path.iterdir()) == before
