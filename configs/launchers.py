r"""How are the runs of a sweep, or one run, started?

Command:   python launch.py --config=configs/quickstart.py --sweep --launcher=local \
               --launcher.num_parallel=2 --workdir=runs/rates

A block for each launcher; each key is an argument of `run` in experiments/launchers/NAME.py, which
says what it is.
"""

import ml_collections

from configs import common

_BLOCKS = {
    "local": dict(num_parallel=0, devices_per_run=0),
    "vmap": dict(max_members=0),
    "slurm": dict(
        cluster="slurm",
        partition="",
        account="",
        minutes=24 * 60,
        nodes=1,
        gpus_per_node=1,
        cpus_per_task=8,
        memory_gb=64,
        most_at_once=16,
        signal_seconds=300,
        max_requeues=20,
        sbatch=(),
        env_names=(),
        wait=False,
    ),
    "tpu_vm": dict(
        name="lm",
        zone="",
        project="",
        accelerator_type="",
        runtime_version="",
        provisioning="on_demand",
        queued=False,
        num_vms=1,
        create_args=(),
        ssh_args=(),
        python="3.11",
        mount="",
        remote_folder="",
        env_names=(),
        keep=False,
        max_restarts=20,
        create_attempts=20,
        retry_seconds=120.0,
        poll_seconds=20.0,
    ),
    "skypilot": dict(
        infra="",
        accelerators="",
        num_nodes=1,
        cpus="",
        memory="",
        disk_gb=256,
        use_spot=True,
        managed=True,
        mounts=(),
        remote_folder="",
        python="3.11",
        packages=("jax[cuda13]",),
        env_names=(),
    ),
}


def get_config(name: str) -> ml_collections.ConfigDict:
    """`name`: local, vmap, slurm, tpu_vm or skypilot."""
    return ml_collections.ConfigDict(common.choose("launcher", name, _BLOCKS))
