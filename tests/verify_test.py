"""What `--verify` says: of a config that is well, and of code in which one thing is broken."""

import itertools
import json
import re

import pytest

from configs import classify, families, quickstart
from experiments import pretrain
from experiments.verify import checks, verify
from lm.corpus.batches import Batches
from lm.errors import UserError
from lm.models.masks import AttentionMask
from lm.train import step as step_lib


def make_config(corpus):
    config = quickstart.get_config("debug,optimizer=adamw")
    config.data.update(corpus, source="text")
    config.tokenizer = {"kind": "bytes"}
    config.model.update(vocab_size=259, num_layers=1)  # Compiling is what takes the time.
    few = corpus["validation"].replace("*", "0")
    config.eval.corpora = {"few": {"source": "text", "validation": few, "field": ""}}
    return config


@pytest.fixture(scope="module")
def subject(corpus):
    with verify.opened(make_config(corpus)) as subject:
        yield subject


def test_a_config_that_is_well_passes_whole(subject):
    results = verify.check(subject)

    assert not any(result.failed or result.skipped for result in results.values()), results
    assert list(results) == list(checks.CHECKS)


def mean_of_means(monkeypatch):
    real = step_lib.summed_gradients

    def mean(loss_fn):
        def of_micro_batch(params, batch, key):
            sums = loss_fn(params, batch, key)
            return {name: x / sums["num_tokens"] for name, x in sums.items()}

        return of_micro_batch

    monkeypatch.setattr(
        step_lib,
        "summed_gradients",
        lambda params, batch, key, loss_fn, n: real(
            params, batch, key, mean(loss_fn) if n > 1 else loss_fn, n
        ),
    )


def leaking_mask(monkeypatch):
    real = AttentionMask.mask_BLM
    everything = lambda self, L, M: real(self.replace(segment_ids_BL=None), L, M)
    monkeypatch.setattr(AttentionMask, "mask_BLM", everything)


def other_order_after_resuming(monkeypatch):
    real = Batches.iterate

    def iterate(self, first_step, end_step, *part):
        self._keys = [f"{key} {first_step}" for key in self._keys]
        return real(self, first_step, end_step, *part)

    monkeypatch.setattr(Batches, "iterate", iterate)


def dropped_remainder(monkeypatch):
    real = pretrain.evaluation_batches

    def batches(prepared, split, *, batch_size, **part):
        num_full = prepared.splits[split].num_rows // batch_size
        return itertools.islice(real(prepared, split, batch_size=batch_size, **part), num_full)

    monkeypatch.setattr(pretrain, "evaluation_batches", batches)


def dropped_remainder_of_corpora(monkeypatch):
    real = pretrain.evaluation_batches

    def batches(prepared, split, *, batch_size, **part):
        num_full = prepared.splits[split].num_rows // batch_size
        found = real(prepared, split, batch_size=batch_size, **part)
        return found if "train" in prepared.splits else itertools.islice(found, num_full)

    monkeypatch.setattr(pretrain, "evaluation_batches", batches)


def one_corpus_for_another(monkeypatch):
    real = pretrain.make_evaluation

    def make(parts, objective, prepared, *, corpora, **more):
        taken = {name: (prepared, num_bytes) for name, (_, num_bytes) in corpora.items()}
        return real(parts, objective, prepared, corpora=taken, **more)

    monkeypatch.setattr(pretrain, "make_evaluation", make)


@pytest.mark.parametrize("plant", [dropped_remainder_of_corpora, one_corpus_for_another])
def test_other_corpora_are_checked_too(plant, subject, monkeypatch):
    plant(monkeypatch)

    assert checks.evaluation(subject).failed


def test_a_corpus_that_is_not_there_is_named(corpus):
    config = make_config(corpus)
    config.eval.corpora.few.validation = "/nowhere/*.txt"

    with pytest.raises(UserError, match=r"eval\.corpora\.few: .*/nowhere"):
        verify.opened(config).__enter__()


def failed(results):
    return [name for name, result in results.items() if result.failed]


FAULTS = {
    leaking_mask: "packing",
    other_order_after_resuming: "resume",
    dropped_remainder: "evaluation",
}


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_what_is_broken_is_the_check_that_fails(plant, subject, monkeypatch):
    plant(monkeypatch)

    assert failed(verify.check(subject)) == [FAULTS[plant]]


def test_what_is_broken_is_named_and_shown_in_the_exit_code(corpus, capsys, monkeypatch):
    mean_of_means(monkeypatch)

    with verify.opened(make_config(corpus)) as subject:
        assert verify.run(subject) == 1

    shown = capsys.readouterr().out
    assert shown.endswith("failed: accumulation\n")
    assert re.search(r"│ accumulation +│.*│ fail", shown)


def of_family(name):
    def make(corpus, tmp_path):
        config = families.get_config(f"family={name},debug")
        config.model.num_layers = 1
        config.data.update(corpus, source="text")
        return config

    return make


def of_classification(corpus, tmp_path):
    del corpus
    names = ["python", "java", "ruby", "lisp"]
    lines = [{"text": f"{names[i % 4]} " * (1 + i % 7), "label": names[i % 4]} for i in range(60)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = classify.get_config("debug,model=bert")
    config.tokenizer = {"kind": "bytes"}
    config.model.num_layers = 1
    config.data.train = str(tmp_path / "data.jsonl")
    return config


CONFIGS = {
    "bert": of_family("bert"),
    "t5": of_family("t5"),
    "classification": of_classification,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_costs_that_a_leak_changes_are_the_same_without_it(name, corpus, tmp_path, monkeypatch):
    config = CONFIGS[name](corpus, tmp_path)
    with verify.opened(config) as subject:
        result = checks.packing(subject)
        leaking_mask(monkeypatch)
        leaking = checks.packing(subject)

    assert not result.failed and not result.skipped
    assert leaking.failed


def test_a_config_that_cannot_work_is_refused_as_a_run_refuses_it(corpus):
    config = make_config(corpus)
    config.optimizer.layer_decay = 2.0

    with pytest.raises(UserError, match=r"optimizer\.layer_decay=2\.0"), verify.opened(config):
        pass
