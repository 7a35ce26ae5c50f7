"""Another optimizer, schedule or objective, or fewer steps, by one argument of the command."""

import pathlib

import pytest

from experiments import cli
from experiments.sweeps import plan
from experiments.wiring import objectives
from experiments.wiring.number_ranges import _RULES, check_numbers
from experiments.wiring.variants import with_num_steps
from lm.errors import UserError
from lm.models.factory import family_named
from lm.train.optimizers import make_optimizer

ROOT = pathlib.Path(__file__).parent.parent
OTHER = ("__init__", "common", "corpora", "finetuning", "launchers", "sweeping")  # No recipes.
FILES = [f"configs/{path.name}" for path in sorted((ROOT / "configs").glob("*.py"))]
FILES = [name for name in FILES if pathlib.Path(name).stem not in OTHER]
ALTERNATIVES = {
    "optimizer": ("optimizer.name", ("adamw", "lion", "adafactor", "sgd", "muon")),
    "schedule": ("optimizer.schedule", ("constant", "linear", "cosine", "rsqrt", "wsd")),
}
OBJECTIVES = {
    "decoder": ("causal", "prefix", "mixture"),
    "encoder": ("masked",),
    "encoder_decoder": ("span_corruption", "prefix", "mixture"),
}


def resolve(filename, **changes):
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return cli.resolve(cli.of_config(filename, changes))


TRAINING = [name for name in FILES if "train" in resolve(name)]


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def has_just_what_is_read(config):
    check_numbers(config.to_dict())
    make_optimizer(num_steps=config.train.num_steps or 100, **config.optimizer)
    if "objective" in config and "name" in config.model:
        architecture = family_named(config.model.name).architecture
        objectives.check(config.objective.to_dict(), architecture)
    return True


@pytest.mark.parametrize("argument", ALTERNATIVES)
@pytest.mark.parametrize("filename", TRAINING)
def test_one_key_chooses_as_the_argument_of_the_file_does(filename, argument):
    key, names = ALTERNATIVES[argument]
    for name in names:
        if (pathlib.Path(filename).stem, name) == ("coordinates", "adafactor"):
            with pytest.raises(UserError, match="choose adamw, lion, muon, sgd"):
                resolve(filename, **{key: name})  # muP has no rule for it.
            continue
        config = resolve(filename, **{key: name})

        assert has_just_what_is_read(config)
        assert config.optimizer[key.partition(".")[2]] == name
        assert config.to_dict() == resolve(f"{filename}:{argument}={name}").to_dict()


@pytest.mark.parametrize("filename", [name for name in TRAINING if "objective" in resolve(name)])
def test_one_key_chooses_the_objective(filename):
    config = resolve(filename)
    names = (
        OBJECTIVES[family_named(config.model.name).architecture] if "name" in config.model else ()
    )
    if pathlib.Path(filename).stem in ("coordinates", "adapt"):
        names = ()
    for kind in names:
        config = resolve(filename, objective__kind=kind)

        assert has_just_what_is_read(config) and config.objective.kind == kind


def test_other_keys_stand_beside_the_choice_and_keys_that_it_does_not_read_are_refused():
    config = resolve(
        "configs/gpt2.py:size=medium",
        optimizer__schedule="wsd",
        optimizer__decay_ratio=0.4,
        optimizer__name="sgd",
    )

    assert has_just_what_is_read(config)
    assert (config.optimizer.decay_ratio, config.optimizer.momentum) == (0.4, 0.9)
    assert config.model.num_layers == 24
    with pytest.raises(UserError, match=r"^--config\.optimizer\.eps=1e-06 is no key"):
        resolve("configs/gpt2.py", optimizer__name="lion", optimizer__eps=1e-6)


def test_a_choice_that_there_is_not_is_one_line_with_those_that_are():
    with pytest.raises(UserError, match="optimizer=lyon is unknown; choose adamw") as caught:
        resolve("configs/bert.py", optimizer__name="lyon")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("signature", ["", "arg=None"])
def test_a_file_of_ones_own_without_the_argument_hears_what_to_do(signature, tmp_path):
    path = tmp_path / "mine.py"
    text = (
        "from configs import quickstart\ndef get_config({}):\n    return quickstart.get_config()\n"
    )
    path.write_text(text.format(signature))

    config = resolve(str(path), optimizer__name="lion")

    with pytest.raises(UserError, match="let that take an argument optimizer or schedule"):
        has_just_what_is_read(config)


def test_a_sweep_chooses_by_the_same_key():
    folder = pathlib.Path("runs/x")
    by_key = plan.plan(
        plan.Base("configs/quickstart.py", {}),
        [
            {"optimizer.name": "lion"},
            {"optimizer.name": "muon", "optimizer.schedule": "wsd", "optimizer.decay_ratio": 0.5},
        ],
        folder,
    )
    by_argument = plan.plan(
        plan.Base("configs/quickstart.py", {}),
        [{"arg": "optimizer=lion"}, {"arg": "schedule=wsd", "optimizer.decay_ratio": 0.5}],
        folder,
    )

    assert [run.name for run in by_key] == [run.name for run in by_argument]
    assert all(has_just_what_is_read(run.config) for run in by_key)
    assert by_key[1].overrides == {"optimizer.schedule": "wsd", "optimizer.decay_ratio": 0.5}


@pytest.mark.parametrize("num_steps", [1, 10])
@pytest.mark.parametrize("filename", TRAINING)
def test_every_recipe_is_shortened_by_its_number_of_steps_alone(filename, num_steps):
    config = with_num_steps(resolve(filename, train__num_steps=num_steps), 640)

    assert has_just_what_is_read(config)
    assert (config.train.num_steps, config.train.num_epochs) == (num_steps, 0)
    epochs = with_num_steps(resolve(filename, train__num_epochs=0.5), 6400)
    assert epochs.train.num_steps == -(-3200 // epochs.data.batch_size)


def test_of_two_ways_to_say_a_thing_the_one_that_is_said_counts():
    by_steps = resolve("configs/classify.py", optimizer__warmup_steps=3).optimizer
    assert (by_steps.warmup_steps, by_steps.warmup_share) == (3, 0.0)
    by_share = resolve("configs/quickstart.py", optimizer__warmup_share=0.2).optimizer
    assert (by_share.warmup_steps, by_share.warmup_share) == (0, 0.2)
    both = resolve("configs/classify.py", train__num_steps=3, train__num_epochs=1.0)
    with pytest.raises(UserError, match="make one of them positive"):
        with_num_steps(both, 640)


# Numbers ---------------------------------------------------------------------------------------

CHECKED_ELSEWHERE = ("model.", "parallel.", "data.sources.", "inputs.")


def numbers(filename):
    values = cli.flat(resolve(filename))
    is_number = lambda x: isinstance(x, int | float) and not isinstance(x, bool)
    return {key: value for key, value in values.items() if is_number(value)}


@pytest.mark.parametrize("filename", FILES)
def test_every_number_of_every_config_has_a_range(filename):
    keys = [key for key in numbers(filename) if not key.startswith(CHECKED_ELSEWHERE)]

    assert [key for key in keys if key not in _RULES] == []


@pytest.mark.parametrize("filename", FILES)
def test_a_number_that_is_none_or_beyond_32_bits_is_refused_wherever_it_stands(filename):
    for key, value in numbers(filename).items():
        config = resolve(filename).copy_and_resolve_references()
        bad = (
            ["nan", "inf", "-inf", "1e300", "-1e39"]
            if isinstance(value, float)
            else ["2**63", "10**400", "-10**20"]
        )
        for text in bad:
            number = float(text) if isinstance(value, float) else eval(text)
            config.update_from_flattened_dict({key: number})

            with pytest.raises(UserError, match=f"^{key}=") as caught:
                check_numbers(config.to_dict())
            assert "\n" not in str(caught.value)
        config.update_from_flattened_dict({key: value})
        check_numbers(config.to_dict())


@pytest.mark.parametrize(
    ("filename", "key", "value"),
    [
        ("configs/classify.py", "lora.alpha", 0.0),
        ("configs/classify.py", "task.labels", ("a", "a", "b")),
        ("configs/quickstart.py", "tokenizer.num_sentinels", -4),
        ("configs/quickstart.py", "tokenizer.user_symbols", ("<x>", "<y>", "<x>")),
        ("configs/coordinates.py", "coordinates.widths", (1.5, 2)),
        ("configs/coordinates.py", "coordinates.widths", (1, 0)),
        ("configs/generate.py", "seed", -1),
        ("configs/generate.py", "num_samples", 2**31 - 1),
        ("configs/generate.py", "temperature", -0.1),
        ("configs/generate.py", "top_p", 0.0),
        ("configs/harness.py", "num_fewshot", -2),
        ("configs/seq2seq.py", "task.num_beams", 0),
    ],
)
def test_what_cannot_mean_anything_is_refused(filename, key, value):
    config = resolve(filename).copy_and_resolve_references()
    config.update_from_flattened_dict({key: value})

    with pytest.raises(UserError, match=f"^{key}"):
        check_numbers(config.to_dict())


def test_epochs_of_more_steps_than_can_be_counted_are_refused():
    config = resolve("configs/classify.py", train__num_epochs=1e300)

    with pytest.raises(UserError, match=r"train\.num_epochs=1e\+300 is 2e\+301 steps"):
        with_num_steps(config, 640)


def test_an_argument_may_be_two_or_begin_with_one_dash_as_absl_has_it():
    spaced = ("--config", "configs/classify.py", "-config.optimizer.name", "lion")
    more = ("--config.optimizer.weight_decay", "-1", "--config.data.truncate", "--verify")

    argv = ["launch.py", *spaced, *more]
    cli.expand_short_flags(argv)

    assert argv[1:] == [
        *("--config=configs/classify.py", "--config.optimizer.name=lion"),
        *("--config.optimizer.weight_decay=-1", "--config.data.truncate", "--verify"),
    ]
