import dataclasses

import pytest

from lm.costs.collectives import Traffic
from lm.costs.flops import peak_flops
from lm.costs.hardware import CHIPS, Chip, step_time

SIZES = dict(data=2, fsdp=4, tensor=4, sequence=1)
CHIP = Chip(CHIPS[-1].name, 80e9, 1e12, link_bandwidth=400.0, domain=8, network_bandwidth=50.0)


def time_of(chip=CHIP, flops=0.0, traffic=0.0, **payloads):
    collectives = {
        ("all-to-all", tuple(axes.split("_"))): Traffic(1, num_bytes)
        for axes, num_bytes in payloads.items()
    }
    return step_time(
        chip,
        flops=flops,
        memory_traffic_bytes=traffic,
        collectives=collectives,
        axis_sizes=SIZES,
    )


def test_the_figures_of_every_chip_make_sense():
    assert len({chip.name for chip in CHIPS}) == len(CHIPS) == 8
    for chip in CHIPS:
        assert peak_flops(chip.name) > 100 * chip.memory_bandwidth
        assert chip.memory_bandwidth > chip.link_bandwidth > (chip.network_bandwidth or 0)


def test_groups_that_leave_a_domain_share_the_adapters_of_their_members_there():
    # Neighbours first: tensor is 4 in a row, within a domain of 8; fsdp has 2 members in each
    # domain, data only one; both together have 2.
    assert time_of(tensor=400.0).waiting_seconds == 400 * 3 / 4 / 400
    assert time_of(fsdp=400.0).hidden_seconds == 400 * 3 / 4 / (2 * 50)
    assert time_of(data=400.0).hidden_seconds == 400 / 2 / 50
    assert time_of(data_fsdp=400.0).hidden_seconds == 400 * 7 / 8 / (2 * 50)
    wide = dataclasses.replace(CHIP, domain=32)
    assert time_of(wide, data_fsdp=400.0).hidden_seconds == 400 * 7 / 8 / 400


def test_without_a_figure_for_the_network_there_is_no_time():
    pod = dataclasses.replace(CHIP, network_bandwidth=None)

    assert time_of(pod, data=1.0) is None
    assert time_of(pod, tensor=1.0).waiting_seconds > 0


@pytest.mark.parametrize("longest", ["flops", "traffic", "fsdp"])
def test_weights_go_beside_the_arithmetic_and_rows_after_it(longest):
    amounts = dict(flops=peak_flops(CHIP.name), traffic=1e12, fsdp=100 * 4 / 3, tensor=400 * 4 / 3)
    amounts[longest] *= 3

    time = time_of(**amounts)

    assert time.seconds == pytest.approx(3 + 1)
