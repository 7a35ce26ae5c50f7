"""Fine-tuning through the experiment, from a file of one's own to a score."""

import functools
import gzip
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import ml_collections
import numpy as np
import pytest
import tokenizers
import transformers
from flax.traverse_util import flatten_dict

from configs import answer, chat, classify, seq2seq, tag
from configs import evaluate as evaluate_config
from configs import generate as generate_config
from configs import predict as predict_config
from experiments import evaluate, finetune, generate, predict
from experiments.wiring import task_data
from experiments.wiring.number_ranges import check_numbers
from lm.errors import UserError
from lm.generation import sampling
from lm.loading import task_model
from lm.parallel.mesh import make_mesh
from lm.parallel.param_rules import place_params
from lm.train import checkpoints, loop

TINY = dict(
    vocab_size=259, max_len=64, num_layers=1, num_heads=2, head_dim=8, model_dim=16, mlp_dim=32
)
TEXTS = {
    "good": ["这部电影很好。", "Wunderbar und schön", "really good 👍🏽", "فيلم جيد جدا"],
    "bad": ["这部电影不好。", "Schrecklich und öde", "really bad 👎🏽", "فيلم سيئ جدا"],
}


def write(path, records):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small files of each kind, by name."""
    folder = tmp_path_factory.mktemp("files")
    texts = [
        {"text": f"{text} {i}", "label": label, "labels": [label] * (i % 2), "number": i / 10}
        for i in range(6)
        for label, each in TEXTS.items()
        for text in each
    ]
    tags = {"Anna": "B-PER", "李": "B-PER", "明": "I-PER", "مكة": "B-LOC", "Köln": "B-LOC"}
    words = [["Anna", "in", "Köln", "!"], ["李", "明", "去", "مكة"], ["x", "李", "明"], ["a", "🎉"]]
    tagged = [{"tokens": w, "tags": [tags.get(x, "O") for x in w]} for w in words * 8]
    pairs = [{"source": f"zwei {i}", "target": f"二 {i}"} for i in range(24)]
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"{i}?"},
                {"role": "assistant", "content": "是。"},
            ]
        }
        for i in range(24)
    ]
    context = "Das Haus ist rot. 那是一座红色的房子。"
    answers = [
        {
            "id": str(i),
            "question": "Welche Farbe?",
            "context": context * (1 + i % 3),
            "answers": [{"text": "红色", "answer_start": context.index("红色")}],
        }
        for i in range(24)
    ]
    all_records = dict(texts=texts, tagged=tagged, pairs=pairs, chats=chats, answers=answers)
    return {name: write(folder / f"{name}.jsonl", r) for name, r in all_records.items()}


RECIPES = {
    "one label": (lambda: classify.get_config("debug,optimizer=adamw"), "texts", {}),
    "many labels": (
        lambda: classify.get_config("debug,optimizer=adamw,kind=multi"),
        "texts",
        {"task.label": "labels"},
    ),
    "a number": (
        lambda: classify.get_config("debug,optimizer=adamw,kind=regression"),
        "texts",
        {"task.label": "number", "optimizer.peak_lr": 0.1},  # Predictions differ, not roundings.
    ),
    "tags": (lambda: tag.get_config("debug"), "tagged", {}),
    "tags by a CRF": (lambda: tag.get_config("debug,optimizer=adamw,crf=true"), "tagged", {}),
    "answers": (lambda: answer.get_config("debug,optimizer=adamw"), "answers", {"task.stride": 16}),
    "pairs": (
        lambda: seq2seq.get_config("debug,optimizer=adamw,model=t5"),
        "pairs",
        {"task.target_len": 8},
    ),
    "pairs, decoder": (
        lambda: seq2seq.get_config("debug,optimizer=adamw,model=gpt2,task=translation"),
        "pairs",
        {"task.target_len": 8},
    ),
    "chats": (lambda: chat.get_config("debug,optimizer=adamw,model=gpt2"), "chats", {}),
}


def make_config(files, name="one label", **changes):
    get_config, file, own = RECIPES[name]
    config = get_config()
    config.tokenizer = {"kind": "bytes"}
    config.model.update({k: v for k, v in TINY.items() if k in config.model})
    config.data.update(train=files[file], seq_len=64, multiple=32, batch_size=8)
    config.data.validation_share = 0.3
    config.train.num_steps = 4
    config.eval.update(every_steps=2, batch_size=8)
    config.checkpoint.every_steps = 2
    config.update_from_flattened_dict(own | changes)
    return config


def run(config, workdir):
    assert finetune.run(config.lock(), workdir) == 0
    return json.loads((workdir / "result.json").read_text())


@pytest.fixture(scope="module")
def trained_on_labels(files, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("labels") / "run"
    run(make_config(files, **{"data.truncate": False}), workdir)
    return workdir


SHARED = {"model.vocab_size": 260, "log.every_steps": 1}  # What two devices divide; each loss.


@pytest.fixture(scope="module")
def trained_by_name(files, tmp_path_factory):
    """Name of a recipe -> its config, workdir and result; nobody changes the workdir."""

    @functools.cache
    def train(name):
        workdir = tmp_path_factory.mktemp(name.split()[0]) / "run"
        config = make_config(files, name, **SHARED)
        return config, workdir, run(config, workdir)

    return train


@pytest.fixture(scope="module", params=RECIPES)
def trained(request, trained_by_name):
    return trained_by_name(request.param)


def test_a_run_scores_its_best_checkpoint_beside_a_baseline(trained):
    config, workdir, result = trained

    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    logged = {line["step"]: line for line in lines if "eval/loss" in line}
    assert sorted(logged) == [2, 4]
    name, sign = config.checkpoint.best_metric, 1 if config.checkpoint.best_mode == "min" else -1
    values = {step: sign * line[name] for step, line in logged.items() if line[name] is not None}
    best = min(values, key=lambda step: (values[step], step), default=2)
    assert result["step"] == best
    for metric, value in result["metrics"].items():
        assert value == pytest.approx(logged[best][metric], abs=1e-6)
    assert (workdir / "predictions.jsonl").read_text().count("\n") > 0
    for scores in result["baselines"].values():
        assert {f"eval/{metric}" for metric in scores} & set(result["metrics"])


def test_training_examples_are_scored_as_others_are(files, tmp_path):
    same = dict(zip(("data.train", "data.validation"), [files["texts"]] * 2, strict=True))
    run(make_config(files, "one label", **same, **{"eval.on_training": True}), tmp_path / "run")

    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "eval/loss" in line][-1]
    held_out = {name: x for name, x in last.items() if name.startswith("eval/")}
    assert held_out == {
        f"eval/{name.partition('/')[2]}": x
        for name, x in last.items()
        if name.startswith("training_set/")
    }


def test_evaluating_gives_the_same_for_any_batch_size(trained, capsys, tmp_path):
    _, workdir, result = trained
    config = evaluate_config.get_config()
    config.update(checkpoint=str(workdir), predictions=str(tmp_path / "again.jsonl"))
    config.data.batch_size = 24
    capsys.readouterr()

    evaluate.run(config, None)

    lines = capsys.readouterr().out.splitlines()
    printed = dict(line.split()[:2] for line in lines if "eval/" in line)
    listed = {n: x for n, x in result["metrics"].items() if "/" not in n.removeprefix("eval/")}
    assert printed.keys() == listed.keys()  # Those of single labels are in a table.
    for name, value in listed.items():
        assert float(printed[name]) == pytest.approx(value, abs=1e-4)
    columns = ("precision", "recall", "f1", "support")
    for label, scores in result["by_label"].items():
        (row,) = [line.split() for line in lines if line.split()[4:] == [label]]
        assert [float(x) for x in row[:4]] == pytest.approx([scores[c] for c in columns], abs=1e-4)
    again, first = (read(p) for p in (tmp_path / "again.jsonl", workdir / "predictions.jsonl"))
    assert [line["name"] for line in again] == [line["name"] for line in first]
    if "eval/spearman" in printed:
        for ours, theirs in zip(again, first, strict=True):
            assert ours["prediction"] == pytest.approx(theirs["prediction"], rel=1e-5)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_was_trained_to_write_answers_a_prompt(trained, capsys):
    _, workdir, _ = trained
    config = generate_config.get_config()
    config.update(checkpoint=str(workdir), prompt="zwei", temperature=0.0, max_new_tokens=4)
    capsys.readouterr()

    if workdir.parent.name.startswith(("pairs", "chats")):
        generate.run(config, None)
        assert "zwei" not in capsys.readouterr().out
    else:
        with pytest.raises(UserError, match="evaluate it instead, or have configs/predict"):
            generate.run(config, None)


def params_of(workdir):
    return flatten_dict(checkpoints.restore_params(workdir / "checkpoints")[1])


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(files, tmp_path, monkeypatch):
    config = make_config(files, "one label", **{"train.patience": 1})
    config.model.dropout = 0.1
    whole = run(config, tmp_path / "whole")
    original = loop.fit

    def stopped(*args, **kwargs):
        count = iter([False, False, True])
        return original(*args, **kwargs | {"stop_requested": lambda step: next(count)})

    monkeypatch.setattr(loop, "fit", stopped)
    assert finetune.run(config.lock(), tmp_path / "parts") == 75
    assert not (tmp_path / "parts" / "result.json").exists()
    monkeypatch.undo()

    assert run(config, tmp_path / "parts") == whole
    whole, parts = params_of(tmp_path / "whole"), params_of(tmp_path / "parts")
    for path in whole:
        np.testing.assert_array_equal(whole[path], parts[path])


def test_it_stops_early_where_nothing_improves(files, tmp_path, capsys):
    changes = {"optimizer.peak_lr": 0.0, "train.num_steps": 40, "train.patience": 2}

    result = run(make_config(files, **changes), tmp_path / "run")

    assert result["step"] == 2
    said = capsys.readouterr().out
    phases = ("reading data", "making parameters", "compiling step 1", "compiling the evaluation")
    places = [said.index(f"\n{phase}" if i else phase) for i, phase in enumerate(phases)]
    assert places == sorted(places)
    assert "stopped early at step 6" in said
    assert checkpoints.restore_params(tmp_path / "run" / "checkpoints")[0] == 6
    run(make_config(files, **changes), tmp_path / "run")
    assert checkpoints.restore_params(tmp_path / "run" / "checkpoints")[0] == 6


def test_seeds_are_runs_of_their_own_and_give_a_mean_with_its_error(files, tmp_path):
    config = make_config(files, num_seeds=2, seed=3)

    finetune.run(config.lock(), tmp_path / "run")

    results = [json.loads((tmp_path / f"run/seed-{s}/result.json").read_text()) for s in (3, 4)]
    losses = [result["metrics"]["eval/loss"] for result in results]
    (estimate,) = [json.loads((tmp_path / "run" / "seeds.json").read_text())["eval/loss"]]
    assert losses[0] != losses[1]
    assert estimate["mean"] == pytest.approx(np.mean(losses))
    assert estimate["standard_error"] == pytest.approx(abs(losses[0] - losses[1]) / 2)


LORA = {"lora.rank": 2, "lora.targets": "attention/(query|value)/kernel"}
ADAPTED = LORA | {"optimizer.peak_lr": 0.05}  # By which adapters change what is predicted.


@pytest.fixture(scope="module")
def trained_with_lora(files, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("lora") / "run"
    config = make_config(files, **SHARED | ADAPTED)
    return config, workdir, run(config, workdir)


def test_with_lora_only_adapters_and_the_head_are_trained_and_saved(trained_with_lora):
    _, workdir, result = trained_with_lora

    saved = params_of(workdir)
    parts = {"/".join(path[:2]) for path in saved}
    assert parts == {"params/head", "params/pool", "adapters/body"}
    rank_params = 2 * 2 * (16 + 16)  # Targets, rank x (inputs + outputs).
    assert sum(x.size for path, x in saved.items() if path[0] == "adapters") == rank_params
    loaded = task_model.load(workdir)
    given = ml_collections.ConfigDict(loaded.config)
    data = task_data.read(given.task, given.data, given.model, given.tokenizer, given.init_from)
    mesh = make_mesh(**loaded.config["parallel"])
    sizes = dict(multiple=32, batch_size=loaded.config["eval"]["batch_size"])
    again = finetune.make_evaluation(loaded.task, loaded.model, mesh, data.validation, **sizes)
    params = place_params(loaded.params, mesh)
    assert again(params)[0]["eval/loss"] == pytest.approx(result["metrics"]["eval/loss"], abs=1e-6)


MESHES = {
    "tags by a CRF": {"parallel.data": 1, "parallel.tensor": 2},
    "pairs": {"parallel.data": 1, "parallel.fsdp": 2},
    "one label": ADAPTED | {"parallel.strategy": "pmap"},
    "answers": {"parallel.data": 1, "parallel.sequence": 2},
}


@pytest.mark.parametrize("name", MESHES)
def test_a_mesh_changes_no_score(files, trained_by_name, trained_with_lora, name, tmp_path):
    has_adapters = MESHES[name].keys() >= ADAPTED.keys()
    _, on_data, expected = trained_with_lora if has_adapters else trained_by_name(name)

    found = run(make_config(files, name, **SHARED | MESHES[name]), tmp_path / "on a mesh")

    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-4)
    losses = [
        [json.loads(line)["train/loss"] for line in lines if "train/loss" in line]
        for workdir in (on_data, tmp_path / "on a mesh")
        if (lines := (workdir / "metrics.jsonl").read_text().splitlines())
    ]
    assert len(losses[0]) == 4
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("init_from", [False, True])
def test_no_device_ever_holds_a_whole_model_that_is_cut(files, bert_folder, init_from):
    changes = {"model.vocab_size": 260, "parallel.data": 1, "parallel.fsdp": 2} | LORA
    config = make_config(files, "one label", **changes)
    if init_from:
        config = classify.get_config()
        config.init_from = str(bert_folder[0])
        config.data.update(train=files["texts"], seq_len=64, batch_size=8)
        config.train.update(num_steps=1, num_epochs=0.0)
        config.parallel.update(data=1, fsdp=2)
        config.lora.update(rank=2, targets="query/kernel")
    config, data = finetune.read(config)

    parts = finetune.make_parts(config, data)

    for path, x in flatten_dict(parts.params).items():
        if path[-1] == "kernel" and "layers" in path:
            assert [shard.data.size for shard in x.addressable_shards] == [x.size // 2] * 2


@pytest.mark.parametrize("mesh", [{}, {"parallel.data": 1, "parallel.fsdp": 2}], ids=["", "fsdp"])
def test_frozen_parameters_stay_and_the_others_move(files, mesh, tmp_path):
    frozen = {"train.frozen": "embedding|layers/attention", "model.vocab_size": 260}
    config = make_config(files, **frozen | mesh)

    run(config, tmp_path / "run")

    loaded = task_model.load(tmp_path / "run")
    first = flatten_dict(task_model.task_params(loaded.config, loaded.task, loaded.model, None)[0])
    for path, x in flatten_dict(loaded.params).items():
        name = "/".join(path)
        is_frozen = "embedding" in name or "layers/attention" in name
        assert np.array_equal(x, first[path]) == is_frozen, name


def test_what_a_run_was_frozen_on_must_not_change(files, tmp_path):
    run(make_config(files), tmp_path / "base")
    config = make_config(files, **LORA)
    config.init_from = str(tmp_path / "base")
    del config.model.name
    run(config, tmp_path / "run")
    task_model.load(tmp_path / "run")
    longer = make_config(files, **{"train.num_steps": 6})

    shutil.rmtree(tmp_path / "base")
    run(longer, tmp_path / "base")

    with pytest.raises(UserError, match="other parameters now"):
        task_model.load(tmp_path / "run")


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    """A bare BERT, as `transformers` saves it, with a tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    config = transformers.BertConfig(vocab_size=200, max_position_embeddings=64, **sizes)
    reference = transformers.BertModel(config)
    reference.save_pretrained(folder)
    words = tokenizers.BertWordPieceTokenizer(lowercase=False)
    words.train_from_iterator([t for each in TEXTS.values() for t in each], vocab_size=200)
    words.save(str(folder / "tokenizer.json"))
    return folder, reference


def test_a_bare_encoder_of_transformers_gets_a_head(files, bert_folder, tmp_path, capsys):
    folder, reference = bert_folder
    config = classify.get_config()
    config.init_from = str(folder)
    config.data.update(train=files["texts"], seq_len=64, batch_size=8)
    config.train.update(num_steps=1, num_epochs=0.0)
    config.optimizer.update(peak_lr=0.0, warmup_share=0.0)
    config.eval.every_steps = config.checkpoint.every_steps = 1

    run(config, tmp_path / "run")

    params = task_model.load(tmp_path / "run").params
    theirs = dict(reference.named_parameters())
    np.testing.assert_array_equal(
        params["body"]["token_embedding"],
        theirs["embeddings.word_embeddings.weight"].detach().numpy(),
    )
    np.testing.assert_array_equal(
        params["pool"]["pooler"]["kernel"], theirs["pooler.dense.weight"].detach().numpy().T
    )
    assert "new: head/bias, head/kernel" in capsys.readouterr().out.replace("\n", " ")


def test_micro_batches_add_up_to_the_batch(files, tmp_path):
    changes = {"data.batch_size": 16, "model.dropout": 0.0}
    whole = run(make_config(files, **changes), tmp_path / "whole")
    parts = run(make_config(files, **changes, **{"train.accumulate_steps": 2}), tmp_path / "parts")

    assert parts["metrics"]["eval/loss"] == pytest.approx(whole["metrics"]["eval/loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictions": "{}/none/x.jsonl"}, "is no folder; make it first"),
        ({"predictions": "{}"}, "name a file"),
        (
            {"predictions": "{run}/config.json"},
            "predictions=.* is in checkpoint=.* already; name another",
        ),
        ({"data.batch_size": 0}, "data.batch_size=0"),
    ],
    ids=["no folder", "a folder", "of the run", "no rows"],
)
def test_an_evaluation_that_cannot_end_is_not_begun(trained, changes, message, tmp_path):
    config = evaluate_config.get_config()
    config.checkpoint = str(trained[1])
    paths = (tmp_path,), {"run": trained[1]}
    filled = {k: v.format(*paths[0], **paths[1]) for k, v in changes.items() if isinstance(v, str)}
    config.update_from_flattened_dict(changes | filled)

    with pytest.raises(UserError, match=message):
        evaluate.run(config, None)


def test_what_is_undefined_is_null_in_the_files(trained_by_name):
    def refuse(constant):
        raise AssertionError(constant)

    _, workdir, _ = trained_by_name("a number")

    result = json.loads((workdir / "result.json").read_text(), parse_constant=refuse)
    assert result["baselines"]["the mean"]["pearson"] is None


def test_seeds_may_differ_in_what_they_find(files, trained_by_name, tmp_path, monkeypatch):
    config = make_config(files, "tags", num_seeds=2)
    metrics = trained_by_name("tags")[2]["metrics"]

    def with_a_type_of_its_own(one, folder, *_):
        folder.mkdir(parents=True)
        found = {"metrics": metrics | {f"eval/f1/{one.seed}": 0.0}}
        (folder / "result.json").write_text(json.dumps(found))
        return 0

    monkeypatch.setattr(finetune, "_run", with_a_type_of_its_own)
    assert finetune.run(config.lock(), tmp_path / "run") == 0

    over_runs = json.loads((tmp_path / "run" / "seeds.json").read_text())
    assert "eval/f1_micro" in over_runs
    assert not {"eval/f1/0", "eval/f1/1"} & over_runs.keys()


def test_prompts_are_the_lines_of_a_file(tmp_path):
    config = generate_config.get_config()
    config.update(checkpoint="x", prompts_file=str(tmp_path / "prompts.txt"))
    text = "\ufeffein\u2028s\r\n\n{二".encode()
    (tmp_path / "prompts.txt").write_bytes(text)
    (tmp_path / "prompts.txt.gz").write_bytes(gzip.compress(text))

    assert [
        prompt.text
        for prompt in generate.read_prompts(config.prompt, config.prompts_file, config.data)
    ] == ["ein\u2028s", "", "{二"]
    config.prompts_file += ".gz"
    assert [
        prompt.text
        for prompt in generate.read_prompts(config.prompt, config.prompts_file, config.data)
    ] == ["ein\u2028s", "", "{二"]


def test_prompts_that_cannot_be_read_are_left_out_where_that_is_asked_for(tmp_path, capsys):
    config = generate_config.get_config()
    config.update(checkpoint="x", prompts_file=str(tmp_path / "prompts.jsonl"))
    lines = ['{"prompt": "a"}', "{", '{"prompt": "' + "x" * 50 + '"}', "[]", '{"messages": []}']
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    config.data.max_document_bytes = 40

    with pytest.raises(UserError, match=r"prompts\.jsonl:2: not JSON.*data\.on_error"):
        generate.read_prompts(config.prompt, config.prompts_file, config.data)
    config.data.on_error = "skip"
    assert [
        prompt.text
        for prompt in generate.read_prompts(config.prompt, config.prompts_file, config.data)
    ] == ["a", None]
    assert "prompts left out: 3, first: " in capsys.readouterr().err
    packed = gzip.compress("\n".join([*lines, *map(str, range(9999))]).encode())
    (tmp_path / "cut.txt.gz").write_bytes(packed[: len(packed) // 2])
    generate.read_prompts("", str(tmp_path / "cut.txt.gz"), config.data)
    said = capsys.readouterr().err
    assert "prompts left out: 1, first: " in said
    assert f"the rest of a file was not read: {tmp_path}/cut.txt.gz: cannot be read behind" in said


def test_no_beams_are_refused():
    config = generate_config.get_config()
    config.update(checkpoint="runs/any", num_beams=0)

    with pytest.raises(UserError, match="num_beams=0"):
        check_numbers(config.to_dict())  # As launch.py does for every experiment.


def test_an_evaluation_needs_no_training_data(files, trained_on_labels, tmp_path, capsys):
    records = [json.loads(line) for line in pathlib.Path(files["texts"]).read_text().splitlines()]
    names = {line["name"] for line in read(trained_on_labels / "predictions.jsonl")}
    held_out = [r for i, r in enumerate(records) if f"{files['texts']}:{i + 1}" in names]
    validation = write(tmp_path / "valid.jsonl", held_out)
    shutil.copytree(trained_on_labels, tmp_path / "run")
    saved = json.loads((tmp_path / "run/config.json").read_text())
    saved["data"]["train"] = str(tmp_path / "gone.jsonl")
    (tmp_path / "run/config.json").write_text(json.dumps(saved))
    config = evaluate_config.get_config()
    config.checkpoint = str(tmp_path / "run")

    with pytest.raises(UserError, match=r"data.train=.*gone.jsonl"):  # A part of it was held out.
        evaluate.run(config, None)
    config.data.validation = validation
    evaluate.run(config, None)

    lines = capsys.readouterr().out.splitlines()
    printed = {line.split()[0]: line.split()[1] for line in lines if "eval/" in line}
    result = json.loads((tmp_path / "run/result.json").read_text())
    for name, value in result["metrics"].items():
        assert float(printed[name]) == pytest.approx(value, abs=1e-4)


UNLABELLED = {  # What is left of a record for its kind of task.
    "texts": lambda record: {"text": record["text"]},
    "tagged": lambda record: {"tokens": record["tokens"]},
    "answers": lambda record: {k: record[k] for k in ("id", "question", "context")},
    "pairs": lambda record: {"source": record["source"]},
    "chats": lambda record: {"messages": record["messages"][:-1]},
}


def predict_lines(config, capfd):
    """Every line of standard output, as JSON."""
    assert predict.run(config, None) == 0
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def close(ours, theirs):
    """Equal to the digits that are printed, of which the last may be rounded otherwise."""
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(close(ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(close, ours, theirs))
    if isinstance(theirs, float):
        return ours == pytest.approx(theirs, rel=1e-5, abs=2e-6)
    return ours == theirs


def replies(workdir, records):
    """The greedy answer to each conversation by itself, as `configs/generate.py` gives it."""
    loaded = task_model.load(workdir)
    tokenizer, written = loaded.tokenizer, []
    for record in records:
        (message,) = record["messages"]
        (sample,) = sampling.sample(
            loaded.model,
            loaded.params,
            [loaded.task.prompt_ids(message["content"]).tolist()],
            jax.random.key(0),
            vocab_size=tokenizer.vocab_size,
            max_new_tokens=4,
            temperature=0.0,
            top_k=0,
            top_p=1.0,
            stop_ids=tokenizer.stop_ids,
        )
        text = tokenizer.decode(sample.tokens).rstrip("\ufffd").strip()
        reason = "length" if sample.stop_id is None else "stop"
        written.append({"prediction": {"text": text, "finish_reason": reason}})
    return written


def new_and_evaluated(config, workdir, files, capfd, tmp_path):
    """The predictions of a run's validation records as new text, and those of its evaluation."""
    kind = pathlib.Path(config.data.train).stem
    evaluated = read(workdir / "predictions.jsonl")
    numbers = [int(line["name"].rpartition(":")[2]) for line in evaluated]
    lines = pathlib.Path(files[kind]).read_text().splitlines()
    records = [UNLABELLED[kind](json.loads(lines[n - 1])) for n in numbers]
    wanted = predict_config.get_config()
    wanted.update(checkpoint=str(workdir), input=write(tmp_path / "new.jsonl", records))
    wanted.data.batch_size = 8
    wanted.max_new_tokens = 4

    found = predict_lines(wanted, capfd)
    if kind == "chats":  # Evaluated by perplexity.
        evaluated = replies(workdir, records)
    return found, evaluated


def test_new_text_gets_the_predictions_that_the_evaluation_made(trained, files, capfd, tmp_path):
    config, workdir, _ = trained

    found, evaluated = new_and_evaluated(config, workdir, files, capfd, tmp_path)

    assert len(found) == len(evaluated)
    for i, (ours, theirs) in enumerate(zip(found, evaluated, strict=True)):
        assert ours["name"] == f"{tmp_path}/new.jsonl:{i + 1}"
        assert close(ours["prediction"], theirs["prediction"]), (ours, theirs)


def test_adapters_count_in_what_is_predicted(
    trained_with_lora, files, capfd, tmp_path, monkeypatch
):
    config, workdir, _ = trained_with_lora
    load = task_model.load

    found, evaluated = new_and_evaluated(config, workdir, files, capfd, tmp_path)
    monkeypatch.setattr(
        task_model, "load", lambda *a, **k: (run := load(*a, **k))._replace(params=run.base)
    )
    without, _ = new_and_evaluated(config, workdir, files, capfd, tmp_path)

    pairs = list(zip(found, evaluated, without, strict=True))
    assert all(close(ours["prediction"], theirs["prediction"]) for ours, theirs, _ in pairs)
    assert not any(close(ours["prediction"], base["prediction"]) for ours, _, base in pairs)


def predicting(workdir, source, tmp_path, **changes):
    config = predict_config.get_config()
    config.update(checkpoint=str(workdir), input=str(source))
    config.data.batch_size = 8
    config.update_from_flattened_dict(changes)
    return config


def test_bad_records_keep_their_places_or_stop_all_and_leave_the_old_file(
    trained_on_labels, tmp_path, capfd
):
    texts = [
        '{"text": "很好", "id": 7}',
        "?",
        '{"label": "bad"}',
        '{"text": " "}',
        '{"text": "öde\u2028"}',
    ]
    (tmp_path / "new.jsonl").write_text("\n".join(texts))
    output = tmp_path / "out.jsonl"
    output.write_text("old")
    config = predicting(trained_on_labels, tmp_path / "new.jsonl", tmp_path, output=str(output))

    with pytest.raises(UserError, match=r"new.jsonl:2: not JSON .*on_error"):
        predict.run(config, None)
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.jsonl", "out.jsonl"]
    config.data.on_error = "skip"
    capfd.readouterr()
    assert predict.run(config, None) == 0

    printed = capfd.readouterr()
    assert printed.out == ""
    assert "predictions: 2, records with an error: 3;" in printed.err
    lines = output.read_text().splitlines()  # No other line break of Unicode is in them.
    found = [json.loads(line) for line in lines]
    assert ["prediction" in line for line in found] == [True, False, False, False, True]
    assert found[0]["id"] == 7 and found[0]["prediction"]["label"] in ("good", "bad")
    assert [line["error"].partition(": ")[0].rpartition(":")[2] for line in found[1:4]] == list(
        "234"
    )
    assert "is missing" in found[2]["error"] and "is empty" in found[3]["error"]


def test_a_file_that_cannot_be_read_to_its_end_is_no_success(trained_on_labels, tmp_path, capfd):
    packed = gzip.compress("".join(f"{i} {i * 7919 % 977}\n" for i in range(900)).encode())
    source, output = tmp_path / "new.txt.gz", tmp_path / "out.jsonl"
    source.write_bytes(packed[: len(packed) // 2])
    changes = {"data.on_error": "skip", "output": str(output)}

    with pytest.raises(UserError, match=r"new.txt.gz: cannot be read behind its first \d+ records"):
        predict.run(predicting(trained_on_labels, source, tmp_path, **changes), None)

    *lines, last = map(json.loads, output.read_text().splitlines())
    assert lines and all("prediction" in line for line in lines) and "error" in last
    assert f"predictions: {len(lines)}, " in capfd.readouterr().err


def test_text_that_is_too_long_is_refused_or_cut_and_said(trained_on_labels, tmp_path, capfd):
    (tmp_path / "new.txt").write_text("short\n" + "long " * 30 + "\n" + "long " * 50)
    config = predicting(
        trained_on_labels, tmp_path / "new.txt", tmp_path, **{"data.on_error": "skip"}
    )

    refused = predict_lines(config, capfd)
    config.data.truncate = True
    cut = predict_lines(config, capfd)

    assert ["error" in line for line in refused] == [False, True, True]
    assert "data.truncate=True" in refused[1]["error"]
    assert ["cut" in line for line in cut] == [False, True, True]
    assert cut[1]["prediction"] == cut[2]["prediction"]  # The same is left of both.
    assert refused[0] == cut[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": "{}/none.txt"}, "there is no such file"),
        ({"input": ""}, "input is not set"),
        ({"input": "{}"}, "is a folder; name a file"),
        ({"output": "{}/none/out"}, "is no folder; make it first"),
        ({"output": "{}"}, "name a file"),
        ({"output": "{}/new.txt"}, "is what is read; name another file"),
        ({"data.batch_size": 0}, "data.batch_size=0"),
        ({"data.on_error": "keep"}, "choose raise, skip"),
        ({"input_format": "csv"}, "choose auto, jsonl, text"),
        ({"checkpoint": "{}"}, "is not a run's folder"),
        ({"checkpoint": ""}, "checkpoint is not set"),
    ],
    ids=str,
)
def test_a_prediction_that_cannot_be_is_not_begun(trained_on_labels, tmp_path, changes, message):
    (tmp_path / "new.txt").write_text("x\n")
    filled = {k: v.format(tmp_path) if isinstance(v, str) else v for k, v in changes.items()}
    config = predicting(trained_on_labels, tmp_path / "new.txt", tmp_path, **filled)

    with pytest.raises(UserError, match=message):
        predict.run(config, None)
    assert [path.name for path in tmp_path.iterdir()] == ["new.txt"]


def test_predictions_leave_a_pipe_as_they_are_made_until_nobody_reads_them(trained_on_labels):
    """Lines without end go in; whoever reads wants three."""
    endless = [sys.executable, "-c", "while True: print('wunderbar', flush=True)"]
    program = ["launch.py", "--config=configs/predict.py", "--config.input=-"]
    program.append(f"--config.checkpoint={trained_on_labels}")
    root = pathlib.Path(__file__).parent.parent
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    with subprocess.Popen(endless, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as source:
        with subprocess.Popen(
            [sys.executable, *program],
            cwd=root,
            stdin=source.stdout,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        ) as process:
            source.stdout.close()
            lines = [json.loads(process.stdout.readline()) for _ in range(3)]
            process.stdout.close()
            said = process.stderr.read().decode()
        source.kill()

    assert process.returncode == 0, said
    assert [line["name"] for line in lines] == ["-:1", "-:2", "-:3"]
    assert lines[0]["prediction"] == lines[2]["prediction"]
    assert "read as plain text" in said and "Traceback" not in said
