"""Records and settings that fine-tuning cannot use: one line each, and nothing is written."""

import pathlib

import pytest

from configs import families
from experiments import finetune
from experiments.wiring import task_data
from lm.errors import UserError
from tests.finetune_test import RECIPES, files, make_config, write  # noqa: F401

QUESTION = {"id": "q", "question": "x", "context": "abc", "answers": []}
BAD = {
    "a label that training never saw": (
        "one label",
        [{"text": "x", "label": "neutral"}],
        r"jsonl:1: the label 'neutral'.*bad, good",
    ),
    "no label": ("one label", [{"text": "x"}], r"jsonl:1: the field 'label' is missing"),
    "no text": (
        "one label",
        [{"text": " ", "label": "bad"}],
        r"jsonl:1: the field 'text' is empty",
    ),
    "a text that is too long": (
        "one label",
        [{"text": "x" * 70, "label": "bad"}],
        r"jsonl:1: 72 tokens do not fit data.seq_len=64",
    ),
    "a number that is none": ("a number", [{"text": "x", "number": "nan"}], r"number='nan'"),
    "a number beyond float32": (
        "a number",
        [{"text": "x", "number": 1e39}],
        r"number=1e\+39 is no number to learn",
    ),
    "a number beyond float64": (
        "a number",
        [{"text": "x", "number": 10**400}],
        r"number=10{400} is no number to learn",
    ),
    "tags that do not match": (
        "tags",
        [{"tokens": ["a", "b"], "tags": ["O"]}],
        r"jsonl:1: 2 tokens, but 1 tags",
    ),
    "a tag that nothing began": (
        "tags",
        [{"tokens": ["a", "b"], "tags": ["O", "I-PER"]}],
        r"jsonl:1: the tag 'I-PER' of word 2.*'B-PER'",
    ),
    "spaces that do not match": (
        "tags",
        [{"tokens": ["a", "b"], "tags": ["O", "O"], "space_before": [True]}],
        r"jsonl:1: the field 'space_before' is no list of 2",
    ),
    "a tag of another scheme": (
        "tags",
        [{"tokens": ["a"], "tags": ["S-PER"]}],
        r"jsonl:1: the tag 'S-PER' is not of the scheme BIO",
    ),
    "an answer that is elsewhere": (
        "answers",
        [QUESTION | {"answers": [{"text": "b", "answer_start": 0}]}],
        r"the answer 'b' is not at character 0, where the context has 'a'",
    ),
    "a target that is too long": (
        "pairs",
        [{"source": "x", "target": "x" * 8}],
        r"jsonl:1: 9 tokens of 'target'.*task.target_len=8",
    ),
    "an answer that is missing": (
        "answers",
        [QUESTION],
        r"unanswerable=True",
    ),
    "no assistant": (
        "chats",
        [{"messages": [{"role": "user", "content": "x"}]}],
        r"nothing to learn",
    ),
}


def read(config):
    """The labelled data of a config."""
    blocks = config.task, config.data, config.model, config.tokenizer
    return task_data.read(*blocks, config.init_from)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_named_in_one_line_or_left_out(name, files, tmp_path):  # noqa: F811
    kind, records, message = BAD[name]
    path = write(tmp_path / "bad.jsonl", records)
    good = pathlib.Path(files[RECIPES[kind][1]]).read_text()
    with (tmp_path / "bad.jsonl").open("a") as file:
        file.write(good)
    changes = {"data.validation": path, "data.truncate": False}
    config = make_config(files, kind, **changes)

    with pytest.raises(UserError, match=message) as caught:
        finetune.run(config.lock(), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()

    config.data.on_error = "skip"
    data = read(config)
    assert len(data.skipped) == 1
    assert len(data.validation.records) == good.count("\n")


CONFIGS = {
    "no model": ({"model": {}}, "init_from is not set"),
    "two models": ({"init_from": "runs/x"}, "brings its own model"),
    "positions": ({"data.seq_len": 65}, "model.max_len=64"),
    "a frozen pattern that matches nothing": ({"train.frozen": "nothing"}, "matches no parameter"),
    "all frozen": ({"train.frozen": "."}, "leaves nothing to train"),
    "adapters of nothing": ({"lora.rank": 2, "lora.targets": "nothing"}, "matches no parameter"),
    "adapters without a rank": ({"lora.targets": "kernel"}, "lora.rank=0 makes no adapters"),
    "weights": ({"task.class_weights": "1"}, "class_weights='1'"),
    "no tokens": ({"data.seq_len": 0}, "data.seq_len=0"),
    "no room for text": ({"data.seq_len": 2}, "data.seq_len=2 leaves no room"),
    "weights of nothing": ({"task.class_weights": "0,0"}, "class_weights='0,0'"),
    "a metric": ({"checkpoint.best_metric": "eval/bleu"}, "eval/bleu.*eval/f1_macro"),
    "a direction": ({"checkpoint.best_mode": "up"}, "best_mode='up'"),
    "a share": ({"data.validation_share": 1.0}, "validation_share=1.0"),
    "patience for nothing": (
        {"train.patience": 2, "checkpoint.best_metric": ""},
        "train.patience=2",
    ),
    "a label field": ({"task.label": "gold"}, "'gold' is missing"),
    "seeds": ({"num_seeds": 0}, "num_seeds=0"),
    "a batch of more than there is": ({"data.batch_size": 800}, "data.batch_size=800"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_cannot_work_is_refused(name, files, tmp_path):  # noqa: F811
    changes, message = CONFIGS[name]
    changes = dict(changes)
    config = make_config(files)
    if changes.pop("model", None) is not None:
        del config.model.name
    config.update_from_flattened_dict(changes)

    with pytest.raises(UserError, match=message) as caught:
        finetune.run(config.lock(), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_of_training_is_named_or_left_out_too(name, files, tmp_path):  # noqa: F811
    kind, records, message = BAD[name]
    good = pathlib.Path(files[RECIPES[kind][1]]).read_text()
    path = write(tmp_path / "bad.jsonl", records)
    with (tmp_path / "bad.jsonl").open("a") as file:
        file.write(good)
    changes = {"data.train": path, "data.validation": files[RECIPES[kind][1]]}
    config = make_config(files, kind, **changes, **{"data.truncate": False})
    if name != "a label that training never saw":
        with pytest.raises(UserError, match=message):
            read(config)

        config.data.on_error = "skip"
        data = read(config)
        assert len(data.skipped) == 1
        assert len(data.train.records) == good.count("\n")


def test_a_file_without_examples_is_what_is_said_of_it(files, tmp_path):  # noqa: F811
    config = make_config(files, **{"data.train": write(tmp_path / "none.jsonl", [])})

    with pytest.raises(UserError, match=r"data\.train holds no example"):
        read(config)


def test_a_validation_split_whose_labels_weigh_nothing_has_no_loss(files, tmp_path):  # noqa: F811
    path = write(tmp_path / "bad.jsonl", [{"text": "x", "label": "bad"}])
    changes = {"data.validation": path, "task.class_weights": "0,1"}

    with pytest.raises(UserError, match="eval/loss=nan"):
        finetune.run(make_config(files, **changes).lock(), tmp_path / "run")


def test_a_score_of_answers_alone_is_refused_for_questions_without_any(files, tmp_path):  # noqa: F811
    config = make_config(files, "answers", **{"task.scorer": "cmrc", "task.unanswerable": True})

    with pytest.raises(UserError, match="scorer=cmrc scores answers alone"):
        finetune.run(config.lock(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["pairs", "pairs, decoder"])
def test_a_prompt_that_leaves_no_room_is_refused_even_where_texts_are_cut(kind, files):  # noqa: F811
    config = make_config(files, kind, **{"task.prompt": "x" * 64 + "{source}"})
    assert config.data.truncate

    with pytest.raises(UserError, match=r"leaves no room for a source in data\.seq_len=64"):
        read(config)


def test_a_target_that_is_cut_is_counted(files, tmp_path):  # noqa: F811
    pairs = [{"source": "x", "target": "x" * n} for n in (6, 7, 8, 9)]
    path = write(tmp_path / "pairs.jsonl", pairs)
    config = make_config(files, "pairs", **{"data.train": path, "data.validation": files["pairs"]})

    assert read(config).task.notes["cut to task.target_len"] == 2


@pytest.mark.parametrize(("kind", "family"), [("pairs", "bert"), ("chats", "t5")])
def test_a_family_that_does_not_fit_the_task_is_named(kind, family, files, tmp_path):  # noqa: F811
    base = make_config(files)
    base.model = families.small_models(family)[family]
    base.tokenizer = {"kind": "bytes"}
    finetune.run(base.lock(), tmp_path / "base")
    config = make_config(files, kind, init_from=str(tmp_path / "base"))
    del config.model.name

    with pytest.raises(UserError, match=rf"init_from=.*base, a {family}, does not fit"):
        finetune.run(config.lock(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
