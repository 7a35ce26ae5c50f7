import importlib
import pathlib

import pytest

from experiments import build
from lm.models.families import param_shapes
from lm.train.optimizers import make_optimizer

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
TRAINING = ["quickstart", "gpt2", "gpt3"]


def config(name, arg):
    return importlib.import_module(f"configs.{name}").get_config(arg)


# GPT-2: 124,439,808 and the others are the sizes of the published weights. GPT-3: the sums over the
# shapes of table 2.1, which prints 125M, 350M, 760M, 1.3B, 2.7B, 6.7B, 13.0B and 175.0B.
@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("gpt2", "small", 124_439_808),
        ("gpt2", "medium", 354_823_168),
        ("gpt2", "large", 774_030_080),
        ("gpt2", "xl", 1_557_611_200),
        ("gpt3", "small", 125_226_240),
        ("gpt3", "medium", 355_871_744),
        ("gpt3", "large", 760_300_032),
        ("gpt3", "xl", 1_315_723_264),
        ("gpt3", "2.7b", 2_651_553_280),
        ("gpt3", "6.7b", 6_658_404_352),
        ("gpt3", "13b", 12_936_488_380),
        ("gpt3", "175b", 174_604_259_328),
    ],
)
def test_published_sizes(name, size, expected):
    model = build.make_model(config(name, f"size={size}").model, causal=True)

    assert build.num_params(param_shapes(model)) == expected


@pytest.mark.parametrize("rule", ["adamw", "lion", "adafactor", "muon"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "rsqrt", "wsd"])
def test_every_optimiser_and_schedule_can_be_chosen_by_name(rule, schedule):
    block = config("quickstart", f"optimizer={rule},schedule={schedule}").optimizer

    make_optimizer(num_steps=400, **block)


@pytest.mark.parametrize("name", TRAINING)
def test_debug_configs_fit_together(name):
    assert build.make_parts(config(name, "debug")).mesh.size == 8


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.parametrize("arg", ["siz=small", "debug=perhaps", "optimizer=sdg"])
def test_a_misspelt_argument_is_an_error(name, arg):
    with pytest.raises(ValueError, match=arg.split("=")[0]):
        config(name, arg)


def test_the_readme_of_the_configs_lists_each():
    readme = (CONFIGS / "README.md").read_text()
    for path in CONFIGS.glob("[a-z]*.py"):
        assert path.stem == "common" or f"`{path.name}`" in readme, path
