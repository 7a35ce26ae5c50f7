"""The blocks of configs/launchers.py are what launchers take."""

import pytest

from configs import launchers
from experiments import cli
from experiments.launchers import local, skypilot, slurm, tpu_machine, vmap
from lm.errors import UserError


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("local", local.run),
        ("vmap", vmap.run),
        ("slurm", slurm.Settings),
        ("tpu_vm", tpu_machine.Settings),
        ("skypilot", skypilot.Settings),
    ],
)
def test_every_setting_is_known_and_of_its_type(name, takes):
    cli.check_settings(takes, launchers.get_config(name).to_dict())


@pytest.mark.parametrize(
    ("takes", "settings", "message"),
    [
        (local.run, {"num_parallel": 1}, "--launcher needs devices_per_run"),
        (local.run, {"num_parallel": 1, "devices_per_run": 0, "more": 1}, "does not take more"),
        (
            local.run,
            {"num_parallel": "1", "devices_per_run": 0},
            "num_parallel='1' must be of type int",
        ),
        (local.run, {"num_parallel": True, "devices_per_run": 0}, "num_parallel=True"),
        (slurm.Settings, {"env_names": (1,)}, r"env_names=\(1,\) must be of type tuple of str"),
        (slurm.Settings, {"env_names": "TOKEN"}, "env_names='TOKEN' must be of type tuple"),
    ],
)
def test_settings_of_a_file_of_one_s_own_are_checked(takes, settings, message):
    if takes is slurm.Settings:
        settings = launchers.get_config("slurm").to_dict() | settings
    with pytest.raises(UserError, match=message):
        cli.check_settings(takes, settings)
