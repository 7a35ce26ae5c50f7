import json

import pytest
from matplotlib import image

from configs import fertility as fertility_config
from experiments import fertility
from lm.errors import UserError
from tests.tiny_tokenizers import tokenizer_of


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run's tokenizer, and texts of two languages."""
    monkeypatch.chdir(tmp_path)
    tokenizer_of("sentencepiece").save(tmp_path / "run" / "tokenizer")
    (tmp_path / "gpt2.json").write_bytes(tokenizer_of("gpt2").files["tokenizer.json"])
    for name, text in {"en": "the thing is believable\n", "zh": "北京是中国的首都\n"}.items():
        (tmp_path / f"{name}.txt").write_text(text * 3)
    (tmp_path / "empty.txt").touch()
    return tmp_path


def run(arg, **settings):
    config = fertility_config.get_config(arg)
    config.update(settings)
    return config


def test_each_tokenizer_and_language_has_its_row(folder, capsys):
    config = run("en=en.txt,中文=zh.txt", tokenizers="run,gpt2.json")

    assert fertility.run(config, folder / "out") == 0

    lines = capsys.readouterr().out.splitlines()
    found = json.loads((folder / "out" / "fertility.json").read_text())
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["en", "run"],
        ["en", "gpt2.json"],
        ["中文", "run"],
        ["中文", "gpt2.json"],
    ]
    assert found.keys() == {"run", "gpt2.json"}
    assert found["run"]["中文"]["tokens a character"] < 1
    assert found["gpt2.json"]["中文"]["tokens a character"] > 2.5
    assert f"{found['run']['en']['bytes a token']:.3f}" in lines[1]
    picture = image.imread(folder / "out" / "fertility.png")
    assert picture.shape[0] > 900 < picture.shape[1]
    assert picture[..., :3].min() < 0.5 < picture[..., :3].mean()


def test_a_limit_counts_that_many_documents(folder):
    found = {}
    for limit in (0, 1):
        config = run("en=*.txt", tokenizers="run", limit=limit)
        (folder / "empty.txt").write_text("zzzz")  # The first by name.
        assert fertility.run(config, folder / str(limit)) == 0
        found[limit] = json.loads((folder / str(limit) / "fertility.json").read_text())

    assert found[1]["run"]["en"]["bytes a token"] < found[0]["run"]["en"]["bytes a token"]


@pytest.mark.parametrize(
    ("arg", "tokenizers", "message"),
    [
        ("en=en.txt", "", "tokenizers is not set"),
        ("", "run", "there are no texts"),
        ("en=nothing.txt", "run", r"texts: en='nothing\.txt' matches no file"),
        ("en=curated:zh", "run", "texts: en='curated:zh': there is no corpus"),
        ("en=latin.txt", "run", r"latin\.txt: byte 0xe9 .* convert the file$"),
        ("en=empty.txt", "run", "texts: en has no text"),
        ("en", "run", "'en' is not LANGUAGE=GLOBS"),
        ("en=en.txt,zh=zh.txt,en=zh.txt", "run", "texts: en is named twice"),
        ("en=en.txt", "nowhere", "nowhere.* is no file"),
    ],
)
def test_what_cannot_be_counted_is_one_line(folder, arg, tokenizers, message):
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(UserError, match=message):
        fertility.run(run(arg, tokenizers=tokenizers), folder / "out")

    assert not (folder / "out").exists()
