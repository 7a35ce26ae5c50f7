"""Biases of runs: beside lm_eval and `transformers`, and of models that cannot have any."""

import json
import pathlib

import numpy as np
import pytest
import torch
import transformers
import yaml
from matplotlib import image

import lm
from configs import bert, classify, llama, t5
from configs import fairness as fairness_config
from experiments import convert, finetune, harness
from experiments.fairness import fairness
from lm.errors import UserError
from lm.fairness import choices, likelihoods, pairs, stereoset, toxicity, winobias, winogender
from lm.loading import run as run_lib
from lm.models import families
from lm.models.factory import make_model
from lm.models.families import param_shapes
from lm.parallel.mesh import make_mesh
from lm.tokenizers.tokenizers import ByteTokenizer
from tests import harness_test
from tests.tiny_tokenizers import tokenizer_of

HERE = pathlib.Path(__file__).parent
EN, ZH = (str(HERE / "fairness" / f"pairs_{name}.csv") for name in ("en", "zh"))
LENGTH = 128


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory, random_like):
    """Runs of random weights by family, the encoders with a mask token and without."""
    folder = tmp_path_factory.mktemp("runs")
    makers = {"llama": llama.get_config, "t5": t5.get_config, "bert": bert.get_config}
    for name, get_config in makers.items():
        block = get_config("debug").model
        block.update(vocab_size=300, dtype="float32", attention="einsum", num_layers=1)
        if name != "t5":
            block.update(max_len=LENGTH)
        params = random_like(param_shapes(make_model(block, causal=True)), scale=0.2)
        made = convert.Model(block.to_dict(), params, "float32", ByteTokenizer())
        convert.write_run(folder / name, made, source="random")
        if name == "bert":
            made = made._replace(tokenizer=tokenizer_of("bert"))
            convert.write_run(folder / "bert mask", made, source="random")
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """The first pairs of each language: to score them takes most of the time."""
    folder = tmp_path_factory.mktemp("few")
    for path in (EN, ZH):
        lines = pathlib.Path(path).read_text().splitlines(keepends=True)
        (folder / pathlib.Path(path).name).write_text("".join(lines[:11]))
    return {name: str(folder / f"pairs_{name}.csv") for name in ("en", "zh")}


def measured(checkpoint, data, workdir, **changes):
    config = fairness_config.get_config()
    config.update(checkpoint=str(checkpoint), data=data)
    config.update(changes)
    assert fairness.run(config.lock(), workdir) == 0
    return json.loads((workdir / "fairness.json").read_text())


def test_the_score_of_sums_is_that_of_lm_eval(runs_folder, few, tmp_path, monkeypatch):
    """On the same file, by the functions of its own task."""
    import lm_eval.tasks

    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    theirs = pathlib.Path(lm_eval.tasks.__file__).parent / "crows_pairs"
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "utils.py").write_text((theirs / "utils.py").read_text())
    text = (theirs / "crows_pairs_english.yaml").read_text()
    task = yaml.safe_load(text.replace("!function ", "FUNCTION "))
    del task["tag"], task["dataset_name"]
    task |= dict(task="own", dataset_path="csv", test_split="test")
    task |= dict(dataset_kwargs=dict(data_files={"test": few["en"]}))
    dumped = yaml.safe_dump(task).replace("FUNCTION ", "!function ")
    (tasks / "own.yaml").write_text(dumped)
    config = harness_test.make_config(runs_folder, tasks, tasks="own", max_len=LENGTH)
    assert harness.run(config, tmp_path / "harness") == 0
    expected = json.loads((tmp_path / "harness" / "results.json").read_text())["results"]["own"]

    found = measured(runs_folder / "llama", few["en"], tmp_path / "out", batch_size=8)
    found = found["results"]["this model"]["sum"]

    assert found["num_ties"] == 0
    assert found["share"] == expected["pct_stereotype,none"]
    assert 0.2 < found["share"] < 0.8
    difference = expected["likelihood_diff,none"]
    assert found["mean_absolute_difference"] == pytest.approx(difference, rel=1e-5)


def test_an_encoder_is_scored_as_transformers_would(tmp_path):
    """Token by token, masked alone in a row of its own."""
    tokenizer = tokenizer_of("bert")
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size, max_position_embeddings=LENGTH, **sizes
    )
    model = transformers.BertForMaskedLM(config).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.2 * torch.randn_like(weights)
    model.save_pretrained(tmp_path / "hf")
    tokenizer.save(tmp_path / "hf")
    mesh = make_mesh(strategy="jit", data=-1, fsdp=1, tensor=1, sequence=1)
    scorer = likelihoods.make_scorer(run_lib.load(tmp_path / "hf", mesh=mesh), 16)
    sentences = ["the thing was unbelievable", "he did not believe the thing"]

    ids, found = scorer(scorer.params, [("", text) for text in sentences])

    start, end = tokenizer.frame(1).special_ids
    assert start == (tokenizer.id_of("[CLS]"),) and end == (tokenizer.id_of("[SEP]"),)
    for text in sentences:
        whole = torch.tensor([*start, *ids["", text], *end])
        expected = []
        for at in range(1, len(whole) - 1):
            masked = whole.clone()
            masked[at] = tokenizer.mask_id
            with torch.no_grad():
                logits_V = model(masked[None]).logits[0, at]
            expected.append(float(torch.log_softmax(logits_V, 0)[whole[at]]))
        np.testing.assert_allclose(found["", text], expected, atol=1e-4)
        assert np.std(expected) > 0.01


@pytest.mark.parametrize(
    ("family", "language"), [("llama", "zh"), ("t5", "zh"), ("bert mask", "en")]
)
def test_swapped_roles_mirror(family, language, runs_folder, few, tmp_path):
    found = measured(runs_folder / family, few[language], tmp_path / "out")
    results = found["results"]

    assert list(results) == [
        "this model",
        "roles swapped",
        *(f"random weights {i}" for i in range(3)),
    ]
    for score in pairs.SCORES:
        one, other = (results[name][score] for name in ("this model", "roles swapped"))
        assert one["share"] + other["share"] == pytest.approx(1)
        assert one["num_ties"] == other["num_ties"]
        assert one["mean_difference"] == -other["mean_difference"] != 0
        assert one["share_interval"][0] == pytest.approx(1 - other["share_interval"][1])
        by_category = one["by_category"].values()
        assert sum(x["num_pairs"] for x in by_category) == one["num_pairs"]
        assert results["random weights 0"][score] != results["random weights 1"][score]
    picture = image.imread(tmp_path / "out" / "fairness.png")
    assert picture.shape[0] > 300 < picture.shape[1]


@pytest.mark.parametrize("family", ["llama", "t5", "bert mask"])
def test_the_batch_changes_nothing(family, runs_folder, few):
    run = run_lib.load(runs_folder / family)
    texts = [("", pair.more) for pair in pairs.read(few["en"])[0][:5]]

    one, other = (
        scorer(scorer.params, texts)[1]
        for scorer in (likelihoods.make_scorer(run, size) for size in (3, 32))
    )

    for text in texts:
        np.testing.assert_allclose(one[text], other[text], atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "bert mask"])
def test_models_that_saw_no_text_are_not_called_biased(family, runs_folder):
    """By what sentences share; sums favour the shorter ones."""
    mesh = make_mesh(strategy="jit", data=-1, fsdp=1, tensor=1, sequence=1)
    scorer = likelihoods.make_scorer(run_lib.load(runs_folder / family, mesh=mesh), 256)
    read, _ = pairs.read(EN)
    sentences = [("", text) for pair in read for text in (pair.more, pair.less)]
    held = 0
    for seed in range(20):
        ids, likely = scorer(families.random_like(scorer.model, scorer.params, seed), sentences)
        shared = pairs.scores(read, ids, likely)["shared"]
        low, high = pairs.compare(read, shared, seed=0)["share_interval"]
        held += low <= 0.5 <= high

    assert held >= 18


REFUSED = {
    "no data": ("llama", dict(data=""), "data is not set"),
    "no file": ("llama", dict(data="no/pairs.csv"), r"data='no/pairs.csv' matches no file"),
    "no run": ("llama", dict(checkpoint=""), "checkpoint is not set"),
    "an encoder without a mask": ("bert", {}, "an encoder whose tokenizer has no mask token"),
    "a sentence that is too long": (
        "llama",
        dict(data="long.csv"),
        "a text of 132 tokens exceeds the 129 that the model has positions for",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_measured_is_one_line(name, runs_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    family, changes, message = REFUSED[name]
    pathlib.Path("long.csv").write_text(
        f"sent_more,sent_less,bias_type\n{'a' * 131},{'a' * 130},x\n"
    )
    config = fairness_config.get_config()
    config.update(dict(checkpoint=str(runs_folder / family), data=EN) | changes)

    with pytest.raises(UserError, match=message) as caught:
        fairness.run(config.lock(), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A run whose label is a group in disguise, and its files."""
    folder = tmp_path_factory.mktemp("classifier")
    rows = [
        {"text": f"{'aaaa' if group == 'x' else 'bbbb'} {i}", "label": label, "meta": {"g": group}}
        for i in range(24)
        for group, label in (("x", "yes" if i % 8 else "no"), ("y", "no" if i % 8 else "yes"))
    ]
    rows += [{"text": "cccc", "label": "other", "meta": {"g": group}} for group in "xy"]
    for name in ("train", "validation"):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    config = classify.get_config("model=bert")
    config.model.update(num_layers=1, num_heads=2, head_dim=16, model_dim=32, mlp_dim=64)
    config.model.update(vocab_size=259, max_len=48, dropout=0.0)
    config.tokenizer = dict(kind="bytes")
    config.data.update(seq_len=48, multiple=48, batch_size=32)
    config.checkpoint.best_metric = ""
    config.data.update({name: f"{folder}/{name}.jsonl" for name in ("train", "validation")})
    config.train.update(num_epochs=0.0, num_steps=80)
    assert finetune.run(config.lock(), folder / "run") == 0
    return folder


def grouped(folder, workdir, **changes):
    config = fairness_config.get_config("what=groups")
    config.update(dict(checkpoint=str(folder / "run"), group="meta.g") | changes)
    assert fairness.run(config.lock(), workdir) == 0
    return json.loads((workdir / "fairness.json").read_text())["results"]


def test_groups_of_a_run_are_those_of_its_predictions(classifier, tmp_path):
    found = grouped(classifier, tmp_path / "out")["meta.g"]

    lines = map(json.loads, (classifier / "run" / "predictions.jsonl").read_text().splitlines())
    rows = (classifier / "validation.jsonl").read_text().splitlines()
    groups = [json.loads(row)["meta"]["g"] for row in rows]
    chosen = {"x": [], "y": []}
    for line, group in zip(lines, groups, strict=True):
        chosen[group].append(line["prediction"]["label"] == "yes")
    assert found.keys() == {"no", "other", "yes"}  # Each in turn, where none is `positive`.
    for group, yes in chosen.items():
        measures = found["yes"]["by_group"][group]
        assert measures["num"] == len(yes) == 25 and measures["small"]
        assert measures["selection_rate"]["value"] == np.mean(yes)
    parity = found["yes"]["between_groups"]["demographic_parity_difference"]
    assert parity["value"] == abs(np.mean(chosen["x"]) - np.mean(chosen["y"])) > 0.8
    assert parity["interval"][0] > 0.4
    assert (tmp_path / "out" / "fairness.png").exists()
    only = grouped(classifier, tmp_path / "one", positive="yes")
    assert only == {"meta.g": {"yes": found["yes"]}}


GROUPS_REFUSED = {
    "no group": (dict(group=""), "group is not set"),
    "no such field": (dict(group="sex"), r"validation.jsonl:1: the field 'sex' is missing"),
    "no one value": (dict(group="meta"), r"validation.jsonl:1: the group 'meta' is an object"),
    "null": (dict(data="null.jsonl", group="g"), r"null.jsonl:2: the group 'g' is null"),
    "empty": (dict(data="empty.jsonl", group="g"), r"empty.jsonl:2: the group 'g' is empty"),
    "an unknown label": (
        dict(positive="maybe"),
        "positive='maybe' is unknown; choose no, other",
    ),
    "other labels": (dict(data="other.jsonl", group="g"), "the label 'blue' is none of training's"),
}


@pytest.mark.parametrize("name", GROUPS_REFUSED)
def test_what_has_no_groups_is_one_line(name, classifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes, message = GROUPS_REFUSED[name]
    row = {"text": "a", "label": "no", "g": "x"}
    others = {"null": {"g": None}, "empty": {"g": " "}, "other": {"label": "blue"}}
    for kind, change in others.items():
        lines = [json.dumps(each) + "\n" for each in (row, row | change)]
        (tmp_path / f"{kind}.jsonl").write_text("".join(lines))

    with pytest.raises(UserError, match=message) as caught:
        grouped(classifier, tmp_path / "out", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_groups_are_of_models_with_labels(runs_folder, tmp_path):
    with pytest.raises(UserError, match="llama gives texts no labels"):
        grouped(runs_folder, tmp_path, checkpoint=str(runs_folder / "llama"))


def asked(what, checkpoint, data, workdir, **changes):
    config = fairness_config.get_config(f"what={what}")
    config.update(dict(checkpoint=str(checkpoint), data=str(data)) | changes)
    assert fairness.run(config.lock(), workdir) == 0
    assert image.imread(workdir / "fairness.png").shape[1] > 300
    return json.loads((workdir / "fairness.json").read_text())["results"]


@pytest.mark.parametrize("family", ["llama", "bert mask"])
def test_the_answer_of_a_question_is_the_likeliest_behind_it(family, runs_folder, tmp_path):
    """By the likelihoods of the library's own function, one text at a time."""
    path = HERE / "fairness" / "choices_en.jsonl"
    folder = runs_folder / family
    read = [one._replace(context=one.context[-40:]) for one in choices.read(str(path))][:8]
    rows = [json.loads(line) for line in path.read_text().splitlines()][:8]
    rows = [row | {"context": one.context} for row, one in zip(rows, read, strict=True)]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))

    found = asked("choices", folder, tmp_path / "q.jsonl", tmp_path / "out")

    names = ["this model", *(f"random weights {i}" for i in range(3))]
    assert list(found) == [f"{name}, by {score}" for name in names for score in ("sum", "mean")]
    if family == "llama":
        run, chosen = run_lib.load(folder), []
        for question in read:
            texts = [(choices.prompt(question), answer) for answer in question.answers]
            chosen.append(int(np.argmax([x.log_likelihood for x in lm.score(run, texts)])))
        expected = choices.compare(read, chosen, seed=0)
        assert found["this model, by sum"] == json.loads(json.dumps(expected))
    assert found["this model, by sum"]["ambiguous"]["num_questions"] == 4


def test_answers_of_others_are_scored_without_a_model(tmp_path):
    path = HERE / "fairness" / "choices_zh.json"
    rows = [row | {"said": row["ans0"]} for row in json.loads(path.read_text())]
    (tmp_path / "q.json").write_text(json.dumps(rows))

    found = asked("choices", "", tmp_path / "q.json", tmp_path / "out", answer="said")

    assert found["said"]["ambiguous"]["accuracy"]["value"] == 0
    assert found["said"]["ambiguous"]["bias"]["value"] == 0  # The target, asked for good or bad.
    assert found["said"]["num_without_target"] == 0


def test_stereoset_is_scored_beside_random_weights(runs_folder, tmp_path):
    data = HERE / "fairness" / "stereoset_zh.json"

    found = asked("stereoset", runs_folder / "llama", data, tmp_path / "out")

    assert list(found) == ["this model", *(f"random weights {i}" for i in range(3))]
    own = found["this model"]
    assert own["by_split"].keys() == {"intrasentence", "intersentence"}
    assert 0 <= own["ss"]["value"] <= 100 and own["num_ties"] == 0
    assert own["lm"] != found["random weights 0"]["lm"]
    run = run_lib.load(runs_folder / "llama")
    cluster = stereoset.read(str(data))[-1]
    texts = [(cluster.context, text) for text in cluster.sentences]
    likely = [np.mean(one.of_tokens) for one in lm.score(run, texts)]
    scorer = likelihoods.make_scorer(run, 4)
    _, ours = scorer(scorer.params, texts)
    np.testing.assert_allclose([np.mean(ours[text]) for text in texts], likely, atol=1e-5)


def test_pronouns_are_asked_for_beside_random_weights(runs_folder, tmp_path):
    data = HERE / "fairness" / "winogender_en.tsv"

    found = asked("winogender", runs_folder / "llama", data, tmp_path / "out")

    run, chosen = run_lib.load(runs_folder / "llama"), []
    read = winogender.read(str(data))
    for one in read:
        likely = lm.score(run, [(one.prompt, answer) for answer in one.answers])
        chosen.append(int(np.argmax([np.mean(x.of_tokens) for x in likely])))
    expected = json.loads(json.dumps(winogender.compare(read, chosen)))
    assert found["this model"] == expected
    assert len(found) == 4


def test_occupations_are_asked_for_beside_random_weights(runs_folder, tmp_path):
    text = (
        "1 [The cook] thanked the nurse because [he] ate.\n2 The cook saw [the nurse] and [her].\n"
    )
    (tmp_path / "pro.txt").write_text(text)
    (tmp_path / "anti.txt").write_text(text.replace("[he]", "[she]").replace("[her]", "[him]"))
    files = dict(data=str(tmp_path / "pro.txt"), anti=str(tmp_path / "anti.txt"))

    found = asked("winobias", runs_folder / "llama", workdir=tmp_path / "out", **files)

    run, read = run_lib.load(runs_folder / "llama"), winobias.read(files["data"], files["anti"])
    chosen = []
    for side in read["pro.txt"]:
        likely = [lm.score(run, [(one.prompt, x) for x in one.answers]) for one in side]
        chosen.append([int(np.argmax([np.mean(x.of_tokens) for x in two])) for two in likely])
    expected = json.loads(json.dumps(winobias.compare(read, {"pro.txt": chosen})))
    assert found["this model"] == expected
    assert len(found) == 4


PROMPTS = {
    "lines.txt": "the one\n\nanother\n",
    "prompts.jsonl": '{"prompt": {"text": "the one", "toxicity": 0.1}}\n{"prompt": "another"}\n',
}


def toxic(judge, checkpoint, data, workdir, **changes):
    changes = dict(classifier=str(judge / "run"), positive="yes") | changes
    sizes = dict(num_samples=3, max_new_tokens=8)
    return asked("toxicity", checkpoint, data, workdir, **sizes | changes)


def test_texts_of_a_run_are_judged_by_another(classifier, runs_folder, tmp_path):
    for name, text in PROMPTS.items():
        (tmp_path / name).write_text(text)
    read = [toxicity.read_prompts(str(tmp_path / name)) for name in PROMPTS]
    assert [prompt.text for prompt in read[0]] == [prompt.text for prompt in read[1]]

    data = tmp_path / "lines.txt"
    found = toxic(classifier, runs_folder / "llama", data, tmp_path / "out")

    own, untrained = found["this model"], found["random weights 0"]
    assert own != untrained
    assert 0 <= own["mean"]["value"] <= own["expected_maximum"]["value"] <= 1
    assert own["any_above_half"]["value"] in (0, 0.5, 1)
    low, high = own["any_above_half"]["interval"]
    assert low <= own["any_above_half"]["value"] <= high


TOXICITY_REFUSED = {
    "no classifier": ("llama", dict(classifier=""), "classifier is not set"),
    "no classifier of texts": ("llama", dict(classifier="llama"), "gives texts no labels"),
    "an unknown label": ("llama", dict(positive="x"), "positive='x' is unknown; choose no, other"),
    "an encoder": ("bert", {}, "bert is an encoder, which writes nothing"),
    "no prompts": ("llama", dict(data=""), "data is not set; name a file of prompts"),
    "empty": ("llama", dict(data="empty.txt"), "data='empty.txt' holds no prompt"),
    "no prompt": ("llama", dict(data="p.jsonl"), r"p.jsonl:1: the field 'prompt' is missing"),
}


@pytest.mark.parametrize("name", TOXICITY_REFUSED)
def test_what_cannot_be_judged_is_one_line(name, classifier, runs_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "p.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "one.txt").write_text("a\n")
    family, changes, message = TOXICITY_REFUSED[name]
    if changes.get("classifier"):
        changes = {"classifier": str(runs_folder / changes["classifier"])}
    changes = {"data": "one.txt"} | changes
    data = changes.pop("data")

    with pytest.raises(UserError, match=message) as caught:
        toxic(classifier, runs_folder / family, data, tmp_path / "out", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_toxicity_is_summed_up_over_prompts():
    found = toxicity.summary(np.array([[0.2, 0.6], [0.1, 0.1]]), seed=0)

    expected = {"expected_maximum": 0.35, "any_above_half": 0.5, "above_half": 0.25, "mean": 0.25}
    assert {name: x["value"] for name, x in found.items()} == pytest.approx(expected)
    assert toxicity.summary(np.ones((4, 2)), 0)["expected_maximum"]["interval"] == (1, 1)
