"""Folders of `transformers` with the head of a task, opened and trained on as they are."""

import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
import torch
import transformers as t
from flax.traverse_util import flatten_dict
from tokenizers import models, pre_tokenizers, processors

from configs import answer, classify, tag
from configs import convert as convert_config
from configs import evaluate as evaluate_config
from experiments import convert, evaluate, finetune
from experiments.wiring import task_data
from lm.errors import UserError
from lm.loading import task_model
from lm.loading.run_folder import head_of
from lm.models import heads

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "good", "bad", "film"]
SIZES = dict(
    vocab_size=len(WORDS),
    hidden_size=12,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=20,
    max_position_embeddings=30,
)
LABELS = {0: "差", 1: "good", 2: "so so"}
TAGS = {0: "O", 1: "B-X", 2: "I-X"}
GPT2 = dict(vocab_size=len(WORDS), n_embd=12, n_layer=1, n_head=2, n_positions=30, pad_token_id=0)
LLAMA = SIZES | dict(pad_token_id=0)
FOLDERS = {
    "bert, one label": (
        lambda: t.BertForSequenceClassification(t.BertConfig(**SIZES, id2label=LABELS)),
        ("classification", tuple(LABELS.values())),
    ),
    "bert, two labels without names": (
        lambda: t.BertForSequenceClassification(t.BertConfig(**SIZES)),
        ("classification", ("LABEL_0", "LABEL_1")),
    ),
    "roberta, several labels": (
        lambda: t.RobertaForSequenceClassification(
            t.RobertaConfig(
                **SIZES,
                id2label=LABELS,
                problem_type="multi_label_classification",
                pad_token_id=0,
            )
        ),
        ("multi_label", tuple(LABELS.values())),
    ),
    "bert, a number": (
        lambda: t.BertForSequenceClassification(t.BertConfig(**SIZES, num_labels=1)),
        ("regression", ()),
    ),
    "roberta, tags": (
        lambda: t.RobertaForTokenClassification(
            t.RobertaConfig(**SIZES, id2label=TAGS, pad_token_id=0)
        ),
        ("tagging", tuple(TAGS.values())),
    ),
    "bert, answers": (
        lambda: t.BertForQuestionAnswering(t.BertConfig(**SIZES)),
        ("question_answering", ()),
    ),
    "gpt2, one label": (
        lambda: t.GPT2ForSequenceClassification(t.GPT2Config(**GPT2, id2label=LABELS)),
        ("classification", tuple(LABELS.values())),
    ),
    "gpt2, tags": (
        lambda: t.GPT2ForTokenClassification(t.GPT2Config(**GPT2, id2label=TAGS)),
        ("tagging", tuple(TAGS.values())),
    ),
    "qwen2, one label": (
        lambda: t.Qwen2ForSequenceClassification(
            t.Qwen2Config(**LLAMA, num_key_value_heads=1, id2label=LABELS)
        ),
        ("classification", tuple(LABELS.values())),
    ),
}


def read(config):
    """The labelled data of a config."""
    blocks = config.task, config.data, config.model, config.tokenizer
    return task_data.read(*blocks, config.init_from)


def save(model, folder):
    """With weights so large that an error would show, and a tokenizer of words."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.eval().save_pretrained(folder)
    library = tokenizers.Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]")
    )
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    t.PreTrainedTokenizerFast(
        tokenizer_object=library,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")},
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_a_task_model_says_what_it_says_in_transformers(name, tmp_path):
    make, (kind, labels) = FOLDERS[name]
    reference = make()
    folder = save(reference, tmp_path)

    assert task_model.is_task_model(folder)
    loaded = task_model.load(folder)

    tokens_BL = np.random.default_rng(0).integers(5, len(WORDS), (2, 9)).astype(np.int32)
    length_BE = np.array([[9], [9]])
    batch = dict(tokens_BL=tokens_BL, types_BL=np.zeros_like(tokens_BL), length_BE=length_BE)
    inputs = (loaded.task._inputs.inputs(batch),)
    is_of_texts = isinstance(loaded.model, heads.SequenceHead)
    inputs += (length_BE,) if is_of_texts else ()
    found = jax.jit(loaded.model.apply)({"params": loaded.params}, *inputs)
    found = found[:, 0] if is_of_texts else found
    with torch.no_grad():
        expected = reference(torch.tensor(tokens_BL))
    assert (loaded.config["task"]["kind"], task_model.labels_of(loaded.config)) == (kind, labels)
    assert loaded.step == 0
    assert np.abs(found).max() > 0.5
    if kind == "question_answering":
        expected = torch.stack([expected.start_logits, expected.end_logits], axis=-1)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    else:
        np.testing.assert_allclose(found, expected.logits, atol=1e-4)


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(problem_type="ranking"), "problem_type='ranking' is unknown"),
        (dict(problem_type="regression"), "problem_type='regression' with 3 numbers"),
        (dict(id2label={"0": "a", "2": "b"}), "id2label=.* does not name each output"),
        (dict(id2label=["a", "b"]), "id2label=.* does not name each output"),
        (dict(id2label={"0": "a", "1": "a"}), "id2label=.* does not name each output"),
        (dict(id2label=None, num_labels="x"), "num_labels='x' must be"),
        (dict(id2label={"0": "a"}, problem_type="single_label_classification"), "shape"),
    ],
)
def test_labels_that_cannot_be_are_one_line(changes, message, tmp_path):
    save(t.BertForSequenceClassification(t.BertConfig(**SIZES, id2label=LABELS)), tmp_path)
    edit(tmp_path, **changes)

    with pytest.raises(UserError, match=message):
        task_model.load(tmp_path)


def test_settings_of_the_task_can_be_replaced_and_no_others(tmp_path):
    save(t.BertForSequenceClassification(t.BertConfig(**SIZES)), tmp_path)

    loaded = task_model.load(tmp_path, task={"pair": "hypothesis"})

    assert loaded.config["task"]["pair"] == "hypothesis"
    with pytest.raises(UserError, match=r"task\.tags='x': .* no such setting"):
        task_model.load(tmp_path, task={"tags": "x"})
    assert head_of(tmp_path).kind == "classification"


def start(folder, tmp_path, labels, **changes):
    """What fine-tuning from a folder starts with: its config, parameters, and what it says."""
    texts = [f"good {a} film {b}" for a in "abcd" for b in "efgh"]
    rows = [{"text": text, "label": labels[i % 3]} for i, text in enumerate(texts)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = classify.get_config()
    config.init_from = str(folder)
    config.data.update(train=str(tmp_path / "data.jsonl"), seq_len=16, validation_share=0.4)
    config.update_from_flattened_dict(changes)
    config, data = finetune.read(config)
    model = task_model.make_model(config, data.task)
    params, lines = task_model.task_params(config, data.task, model, None)
    return config, flatten_dict(params), "\n".join(lines)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    model = t.BertForSequenceClassification(t.BertConfig(**SIZES, id2label=LABELS))
    return model, save(model, tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def imported(classifier, tmp_path_factory):
    config = convert_config.get_config()
    config.update(source=str(classifier[1]), target=str(tmp_path_factory.mktemp("run") / "run"))
    convert.run(config, None)
    return pathlib.Path(config.target)


@pytest.mark.parametrize("kind", ["folder", "run"])
def test_a_head_is_trained_on_where_its_labels_are_those_of_the_data(
    kind, classifier, imported, tmp_path
):
    model, folder = classifier
    source = folder if kind == "folder" else imported

    config, params, said = start(source, tmp_path, ["so so", "差", "good"])
    _, other, said_of_other = start(source, tmp_path, ["x", "good", "差"])

    theirs = model.classifier.weight.detach().numpy().T
    assert config.task.labels == tuple(LABELS.values())  # In the order of the head's outputs.
    np.testing.assert_array_equal(params["head", "kernel"], theirs)
    assert "head: that of" in said
    assert "new: nothing" in said
    assert "left out: nothing" in said
    assert not np.array_equal(other["head", "kernel"], theirs)
    pooler = "pool", "pooler", "kernel"
    np.testing.assert_array_equal(other[pooler], params[pooler])
    assert "head: new" in said_of_other
    assert "does not fit classification of good, x, 差" in said_of_other
    assert "new: head/bias, head/kernel" in said_of_other
    assert "classifier.weight" in said_of_other or "head/kernel" in said_of_other


@pytest.mark.parametrize("weights", ["", "balanced"])
def test_labels_without_names_are_the_numbers_of_the_data(weights, tmp_path, capsys):
    model = t.BertForSequenceClassification(t.BertConfig(**SIZES, num_labels=3))
    folder = save(model, tmp_path)

    config, params, said = start(folder, tmp_path, [2, 0, 1], **{"task.class_weights": weights})

    assert config.task.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    np.testing.assert_array_equal(params["head", "kernel"], model.classifier.weight.detach().T)
    assert "head: that of" in said
    line = "0 to 2 in the data are the head's LABEL_0 to LABEL_2, which have no names"
    assert read(config).lines["labels"] == line
    config.init_from = ""
    assert "labels" not in read(config).lines  # They are no head's.
    config.init_from = str(folder)
    evaluated = evaluate_config.get_config()
    evaluated.update(checkpoint=str(folder), predictions=str(tmp_path / "p.jsonl"))
    evaluated.data.validation = str(tmp_path / "data.jsonl")
    assert evaluate.run(evaluated, None) == 0
    assert line in capsys.readouterr().out
    lines = (tmp_path / "p.jsonl").read_text().splitlines()
    gold = [json.loads(line)["gold"]["label"] for line in lines]
    assert gold[:3] == ["LABEL_2", "LABEL_0", "LABEL_1"]
    _, other, _ = start(folder, tmp_path, [2, 3, 1])  # There is no LABEL_3.
    assert not np.array_equal(other["head", "kernel"], params["head", "kernel"])


@pytest.mark.parametrize(
    ("given", "does_fit"), [("BIES", True), ("BILU", True), ("BMEW", True), ("BEIS", False)]
)
def test_tags_are_the_same_in_each_spelling_of_their_scheme(tmp_path, given, does_fit):
    names = lambda prefixes: ("O", *(f"{prefix}-PER" for prefix in prefixes))
    labels = dict(enumerate(names("BILU")))
    model = t.BertForTokenClassification(t.BertConfig(**SIZES, id2label=labels))
    folder = save(model, tmp_path / "tagger")
    rows = [{"tokens": ["good", "film"], "tags": tags} for tags in (["U-PER", "O"], ["O", "O"])]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 9))
    config = tag.get_config()
    config.init_from = str(folder)
    config.task.update(scheme="BIOES", labels=names(given))
    config.data.update(train=str(tmp_path / "data.jsonl"), seq_len=16, validation_share=0.5)

    config, data = finetune.read(config)
    made = task_model.make_model(config, data.task)
    params, lines = task_model.task_params(config, data.task, made, None)

    theirs = model.classifier.weight.detach().numpy().T
    assert np.array_equal(params["head"]["kernel"], theirs) == does_fit
    assert ("new: nothing" in "\n".join(lines)) == does_fit


@pytest.mark.parametrize("name", ["bert, one label", "gpt2, one label", "roberta, tags"])
def test_a_head_comes_back_from_a_run_to_the_bit(name, tmp_path, capsys):
    make, (kind, labels) = FOLDERS[name]
    folder = save(make(), tmp_path / "hf")
    for source, target in (("hf", "run"), ("run", "back")):
        config = convert_config.get_config()
        config.update(source=str(tmp_path / source), target=str(tmp_path / target))
        convert.run(config, None)

    said = capsys.readouterr().out
    assert f"with its head: {kind} of {', '.join(labels)}" in said
    assert "--config.allow_unknown=True" in said
    assert "configs/predict.py" in said
    before, after = (
        safetensors.numpy.load_file(d / "model.safetensors") for d in (folder, tmp_path / "back")
    )
    assert before.keys() == after.keys()
    for tensor, value in before.items():
        np.testing.assert_array_equal(value, after[tensor], err_msg=tensor)
    reference = t.AutoConfig.from_pretrained(tmp_path / "back")
    assert tuple(reference.id2label.values()) == labels


def test_what_is_not_said_of_fields_is_as_in_the_recipes(tmp_path):
    recipes = {
        "bert, one label": classify.get_config("kind=single"),
        "roberta, several labels": classify.get_config("kind=multi"),
        "bert, a number": classify.get_config("kind=regression"),
        "roberta, tags": tag.get_config(),
        "bert, answers": answer.get_config(),
    }
    for name, recipe in recipes.items():
        folder = save(FOLDERS[name][0](), tmp_path / name)
        block, expected = task_model.imported_config(folder)["task"], recipe.task.to_dict()
        assert block.keys() == expected.keys()
        for key in expected.keys() - {"labels", "class_weights", "stride"}:
            assert block[key] == expected[key], (name, key)
