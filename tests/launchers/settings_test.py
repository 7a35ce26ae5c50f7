"""The blocks of configs/launchers.py are what launchers take."""

import dataclasses

import pytest

from configs import launchers
from experiments.launchers import skypilot, slurm, vm


@pytest.mark.parametrize(
    "name, settings",
    [("slurm", slurm.Settings), ("tpu_vm", vm.Settings), ("skypilot", skypilot.Settings)],
)
def test_every_setting_is_known_and_of_its_type(name, settings):
    block = launchers.get_config(name).to_dict()
    assert {field.name for field in dataclasses.fields(settings)} == block.keys()
    for field in dataclasses.fields(settings):
        kind = getattr(field.type, "__origin__", field.type)
        assert type(block[field.name]) is kind, field.name
