"""What a config says of the model of `init_from` is used, or said to be unused."""

import json

import pytest

from configs import classify, llama, quickstart
from experiments import initial
from tests import run_folders


def started_from(recipe, folder, **model):
    run_folders.write(folder, json.loads(recipe.get_config("debug").to_json()), [])
    config = classify.get_config()
    config.init_from = str(folder)
    config.model.update(model)
    return initial.with_model(config).model


@pytest.mark.parametrize("rate, said", [(0.1, ["model.dropout=0.1 is not used"]), (0.0, [])])
def test_dropout_for_a_model_that_has_none_is_said_to_be_unused(tmp_path, caplog, rate, said):
    model = started_from(llama, tmp_path / "run", dropout=rate, remat="dots")

    assert "dropout" not in model and model.remat == "dots"
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == said


def test_dropout_for_a_model_that_has_some_replaces_its_own(tmp_path, caplog):
    assert started_from(quickstart, tmp_path / "run", dropout=0.3).dropout == 0.3
    assert caplog.records == []
