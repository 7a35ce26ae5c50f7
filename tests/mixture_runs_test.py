"""Runs that train on a mixture of corpora."""

import json

import pytest

from configs import evaluate as evaluate_config
from configs import mixture, quickstart
from experiments import cli, dry_run, evaluate, pretrain
from experiments.verify import pretraining as verified
from experiments.wiring import pretraining
from experiments.wiring.number_ranges import check_numbers
from experiments.wiring.variants import with_num_steps
from lm.errors import UserError

STAGES = ((0.0, {"zh": 0.5, "en": 0.5}), (0.75, {"zh": 1.0, "en": 0.0}))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for name, text in (("en", "all work and no play "), ("zh", "只工作不玩耍")):
        for split, times in (("train", 200), ("validation", 20)):
            for i in range(3):
                (folder / f"{name}.{split}.{i}.txt").write_text(f"{i} {text * times}")
    return folder


def make_config(texts, **changes):
    config = quickstart.get_config("sources=en+zh,tokenizer=bytes,optimizer=adamw,debug")
    config.eval.update(sample_tokens=0, compressors=False)
    config.model.num_layers = 1  # Compiling is what takes the time.
    for name, block in config.data.sources.items():
        place = {split: f"{texts}/{name}.{split}.*.txt" for split in ("train", "validation")}
        block.update(source="text", **place)
    config.update_from_flattened_dict(changes)
    check_numbers(config.to_dict())
    return config.lock()


@pytest.fixture(scope="module")
def workdir(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture") / "run"
    assert pretrain.run(make_config(texts, **{"data.mixture.stages": STAGES}), folder) == 0
    return folder


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_logs_what_it_has_seen_of_each_source(workdir):
    shares = [r["train/share/zh"] for r in records(workdir) if "train/share/zh" in r]
    assert len(shares) == 4 and shares[3] == 1.0
    assert sum(shares[:3]) == 1.5  # 24 of 48 rows: just as many as the stage has.
    epochs = [r["train/epochs/zh"] for r in records(workdir) if "train/epochs/zh" in r]
    assert epochs == sorted(epochs) and epochs[0] > 0
    assert records(workdir)[0].keys().isdisjoint({"train/share/zh"})


def test_each_source_is_evaluated_under_its_name(texts, workdir, capsys):
    (found,) = [r for r in records(workdir) if "eval/loss" in r and r["step"] == 4]
    config = make_config(texts, **{"data.mixture.stages": STAGES})
    prepared = pretraining.make_data(config.data, config.tokenizer, config.model.vocab_size)
    infos = {name: p.splits["validation"] for name, p in prepared.corpora.items()}
    for metric, of_info in (
        ("loss", lambda i: i.num_tokens - i.num_documents),  # The first ones are given.
        ("bits_per_byte", lambda i: i.num_predicted_bytes),
    ):
        each = {name: found[f"eval/{name}/{metric}"] for name in infos}
        assert each["en"] != each["zh"]
        assert found[f"eval/macro/{metric}"] == pytest.approx(sum(each.values()) / 2)
        weights = {name: of_info(info) for name, info in infos.items()}
        mean = sum(each[name] * weights[name] for name in each) / sum(weights.values())
        assert found[f"eval/{metric}"] == pytest.approx(mean)
    assert "eval/zh/perplexity" in found
    config = evaluate_config.get_config()
    config.checkpoint = str(workdir)
    assert evaluate.run(config, workdir) == 0
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines()[1:])
    for name in ("eval/loss", "eval/zh/loss", "eval/macro/bits_per_byte"):
        assert float(shown[name]) == pytest.approx(found[name], rel=1e-5)


def test_a_run_that_is_done_goes_on_by_the_same_config_alone(texts, workdir):
    config = make_config(texts, **{"data.mixture.stages": STAGES})
    assert pretrain.run(config, workdir) == 0
    other = make_config(texts, **{"data.mixture.stages": STAGES[:1]})
    with pytest.raises(UserError, match=r"another config: data\.mixture\.stages"):
        pretrain.run(other, workdir)
    longer = make_config(texts, **{"data.mixture.stages": STAGES, "train.num_steps": 8})
    with pytest.raises(UserError, match=r"--extend: .* --config\.init_from="):
        pretrain.run(longer, workdir, extend=True)


def test_an_epoch_is_as_many_rows_as_all_sources_have(texts):
    config = with_num_steps(make_config(texts, **{"train.num_epochs": 2.0, "train.num_steps": 0}))
    prepared = pretraining.make_data(config.data, config.tokenizer, config.model.vocab_size)
    num_rows = [p.splits["train"].num_rows for p in prepared.corpora.values()]
    assert len(num_rows) == 2 and config.train.num_steps == -(-2 * sum(num_rows) // 16)


def test_a_step_is_shown_with_its_sources(texts, capsys):
    config = make_config(texts, **{"data.mixture.stages": STAGES})
    dry_run.show_batch(config, 4)
    assert f"of {', '.join(['zh'] * 16)}\n" in capsys.readouterr().out


def test_a_dry_run_says_what_a_run_would_draw(texts, capsys):
    dry_run.run(make_config(texts, **{"data.sources.zh.weight": 1e-9}))
    out = capsys.readouterr().out
    for word in ("source", "rows", "tokens", "weight", "rows drawn", "epochs"):
        assert word in out
    assert "warning: of zh nothing is drawn" in out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.sources.zh.weight": -1.0}, "data.sources.zh.weight=-1.0 must be a number"),
        ({"data.sources.zh.max_epochs": 0.1}, "data.sources.zh.max_epochs=0.1: the weights draw"),
        ({"data.mixture.stages": ((0.99, STAGES[0][1]),)}, "has none of the run's 4 steps"),
        ({"data.source": "text"}, "data.source='text' means nothing beside data.sources"),
        ({"data.sources.zh.train": "nowhere/*.txt"}, "data.sources.zh.train"),
    ],
)
def test_a_mistake_is_found_before_anything_is_written(texts, changes, words, tmp_path):
    with pytest.raises(UserError) as error:
        pretrain.run(make_config(texts, **changes), tmp_path / "run")
    assert words in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_weight_that_is_no_number_is_refused(texts):
    with pytest.raises(UserError, match=r"data\.sources\.zh\.weight=nan must"):
        make_config(texts, **{"data.sources.zh.weight": float("nan")})


def test_stages_and_sources_are_set_by_a_command():
    config = cli.resolve(
        [
            "--config=configs/gpt2.py:sources=en+zh",
            "--config.data.sources.zh.weight=3.0",
            f"--config.data.mixture.stages={STAGES!r}",
            "--config.data.mixture.temperature=2.0",
        ]
    )
    assert config.data.sources.zh.weight == 3.0 and config.data.mixture.stages == STAGES
    assert sorted(config.data.sources) == ["en", "zh"] and config.data.source == ""


def test_a_shrunken_run_has_all_sources_and_stages(texts, tmp_path):
    config = make_config(texts, **{"data.mixture.stages": ((0.5, STAGES[1][1]),)})
    with config.unlocked():
        config.data.sources.zh.max_epochs = 1e3
    import jax

    devices = tuple(jax.devices("cpu"))
    run = verified.make(config, devices[:1], devices[:1], devices, tmp_path)
    batches = run.make_batches()
    assert batches.mixture.names == ("en", "zh")
    assert {*batches.sources_at(0)} == {"en", "zh"} and {*batches.sources_at(99)} == {"zh"}
    assert [stage.num_examples for stage in batches.mixture.stages] == [400, 400]


def test_the_recipe_draws_as_many_rows_either_way():
    totals = []
    for at_end in ("false", "true"):
        config = mixture.get_config(f"at_end={at_end}")
        stages = config.data.mixture.stages
        ends = [*(start for start, _ in stages[1:]), 1.0]
        parts = [(e - s) * w["encodings"] for (s, w), e in zip(stages, ends, strict=True)]
        totals.append(sum(parts))
        pretraining.make_parts(config)
    assert totals == pytest.approx([0.1, 0.1])
