"""The coordinate check passes as things are, and sees each rule of muP that is left out."""

import csv
import random

import pytest

from configs import coordinates as coordinates_config
from experiments import coordinates
from experiments.wiring import pretraining
from lm.models import mup

WIDTHS = (1, 8)
BOUND = 0.35


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of a text that stays the same whatever becomes of this repository, and so the slopes do."""
    folder, rng = tmp_path_factory.mktemp("text"), random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 8))) for _ in range(300)]
    for split, num_lines in (("train", 3000), ("validation", 300)):
        lines = [" ".join(rng.choices(words, k=8)) for _ in range(num_lines)]
        (folder / f"{split}.txt").write_text("\n".join(lines))
    config = coordinates_config.get_config("tokenizer=bytes")
    config.data.update(source="text", seq_len=32, batch_size=16)
    config.data.update(train=f"{folder}/train.txt", validation=f"{folder}/validation.txt")
    config.model.update(
        vocab_size=259, max_len=32, num_layers=1, num_heads=2, head_dim=8, model_dim=16, mlp_dim=32
    )
    config.coordinates.update(widths=WIDTHS, bound=BOUND)
    return config


@pytest.fixture(scope="module")
def prepared(config):
    return pretraining.make_data(config.data, config.tokenizer, config.model.vocab_size)


@pytest.fixture(scope="module")
def ran(config, tmp_path_factory):
    """A whole run: its exit code, folder and points."""
    folder = tmp_path_factory.mktemp("ran")
    code = coordinates.run(config, folder)
    with (folder / "coordinates.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row |= {name: int(row[name]) for name in ("step", "width")}
        row |= {name: float(row[name]) for name in ("size", "change")}
    return code, folder, [coordinates.Point(**row) for row in rows]


def slopes(config, prepared, ran):
    """At the base shape no rule changes anything, so only a wide model is trained."""
    base = [p for p in ran[2] if p.width == 1]
    wide = coordinates.measured(config, WIDTHS[-1], "muP", prepared)
    return coordinates.slopes([*base, *wide], "muP")


def test_a_run_is_flat_under_muP_and_shows_what_grows_without(ran):
    code, folder, points = ran

    assert code == 0 and coordinates.is_flat(coordinates.slopes(points, "muP"), BOUND)
    assert (folder / "coordinates.png").read_bytes().startswith(b"\x89PNG")
    standard = coordinates.slopes(points, "standard")
    assert standard["attention out"].change > 0.5 and standard["mlp out"].change > 0.5


def test_wider_heads_need_the_scale_of_scores(config, prepared, ran, monkeypatch):
    config = config.copy_and_resolve_references()
    config.coordinates.grow = "head_dim"
    found = slopes(config, prepared, ran)
    monkeypatch.setattr(mup, "attention_scale", lambda c: None)
    without = slopes(config, prepared, ran)

    # After so few steps queries and keys hardly know each other, and with the scale scores of wide
    # heads change less: by a slope of -1/2 at most. It is this 1/2 that the scale takes away.
    assert -0.5 <= found["attention scores"].change <= BOUND
    assert without["attention scores"].change > found["attention scores"].change + 0.4


@pytest.mark.parametrize(
    ("name", "value", "activation"),
    [
        ("_RATES", {"adamw": {}}, "mlp out"),
        ("output_multiplier", lambda c: 1.0, "logits"),
        ("_INIT", {}, "mlp out"),
    ],
)
def test_a_rule_that_is_left_out_is_seen(
    name, value, activation, config, prepared, ran, monkeypatch
):
    monkeypatch.setattr(mup, name, value)

    found = slopes(config, prepared, ran)

    assert not coordinates.is_flat(found, BOUND)
    assert max(found[activation]) > BOUND
