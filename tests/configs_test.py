import importlib
import pathlib

import jax
import pytest

from configs import evaluate, predict
from experiments.wiring import pretraining
from lm.models.factory import make_model
from lm.models.families import param_shapes
from lm.models.parameters import num_params
from lm.train.optimizers import make_optimizer

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
TRAINING = ["quickstart", "gpt2", "gpt3", "bert", "t5", "llama"]


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
        ("bert", "tiny", 4_433_468),
        ("bert", "mini", 11_267_900),
        ("bert", "small", 29_058_876),
        ("bert", "medium", 41_668_412),
        ("bert", "base", 110_106_428),
        ("bert", "large", 336_226_108),
        ("t5", "small,version=1.0", 60_506_624),
        ("t5", "base,version=1.0", 222_903_552),
        ("t5", "large,version=1.0", 737_668_096),
        ("t5", "3b,version=1.0", 2_851_598_336),
        ("t5", "11b,version=1.0", 11_307_321_344),
        ("t5", "small", 76_961_152),
        ("t5", "base", 247_577_856),
        ("t5", "large", 783_150_080),
        ("t5", "3b", 2_849_757_184),
        ("t5", "11b", 11_135_332_352),
        ("llama", "llama2-7b", 6_738_415_616),
        ("llama", "llama2-13b", 13_015_864_320),
        ("llama", "llama2-70b", 68_976_648_192),
        ("llama", "llama3-8b", 8_030_261_248),
        ("llama", "llama3-70b", 70_553_706_496),
        ("llama", "llama3-405b", 405_853_388_800),
        ("llama", "llama3.2-1b", 1_235_814_400),
        ("llama", "llama3.2-3b", 3_212_749_824),
        ("llama", "mistral-7b", 7_241_732_096),
        ("llama", "qwen2-0.5b", 494_032_768),
        ("llama", "qwen2-1.5b", 1_543_714_304),
        ("llama", "qwen2-7b", 7_615_616_512),
        ("llama", "smollm2-135m", 134_515_008),
        ("llama", "smollm2-360m", 361_821_120),
        ("llama", "smollm2-1.7b", 1_711_376_384),
    ],
)
def test_published_sizes(name, size, expected):
    model = make_model(config(name, f"size={size}").model, causal=True)

    assert num_params(param_shapes(model)) == expected


@pytest.mark.parametrize("rule", ["adamw", "lion", "adafactor", "muon"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "rsqrt", "wsd"])
def test_every_optimiser_and_schedule_can_be_chosen_by_name(rule, schedule):
    block = config("quickstart", f"optimizer={rule},schedule={schedule}").optimizer

    make_optimizer(num_steps=400, **block)


@pytest.mark.parametrize(
    ("name", "arg"),
    [
        *[(name, "debug") for name in TRAINING],
        *[
            (name, f"objective={o},debug")
            for name in ("gpt2", "llama")
            for o in ("prefix", "mixture")
        ],
        *[("t5", f"objective={o},debug") for o in ("prefix", "ul2")],
        *[("families", f"family={f},debug") for f in ("gpt2", "llama", "bert", "t5")],
    ],
)
def test_debug_configs_fit_together(name, arg):
    assert pretraining.make_parts(config(name, arg)).mesh.size == jax.device_count()


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.parametrize("arg", ["siz=small", "debug=perhaps", "optimizer=sdg"])
def test_a_misspelt_argument_is_an_error(name, arg):
    with pytest.raises(ValueError, match=arg.split("=")[0]):
        config(name, arg)


def test_the_readme_of_the_configs_lists_each():
    readme = (CONFIGS / "README.md").read_text()
    for path in CONFIGS.glob("[a-z]*.py"):
        assert path.stem == "common" or f"`{path.name}`" in readme, path


def test_an_evaluation_names_every_field_that_a_prediction_does():
    evaluated, predicted = (set(config.get_config().task) for config in (evaluate, predict))

    assert predicted <= evaluated
    assert {"label", "tags", "target"} <= evaluated
