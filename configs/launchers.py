r"""How are the runs of a sweep, or one run, started?

Command:   python launch.py --config=configs/quickstart.py --sweep --launcher=local \
               --launcher.num_parallel=2 --workdir=runs/rates

A block for each launcher; experiments/launchers/NAME.py reads it, and docs/launchers.md says more.
"""

import ml_collections

from configs import common

_BLOCKS = {
    "local": dict(
        num_parallel=0,  # Runs at a time; 0: as many as accelerators allow, or one on a CPU.
        devices_per_run=0,  # GPUs, TPU chips or, without any, cores; 0: an equal share.
    ),
    "vmap": dict(
        max_members=0,  # Most runs that one program trains at a time; 0: all that fit it.
    ),
    "slurm": dict(
        cluster="slurm",  # slurm; or local, for processes of this machine, to rehearse.
        partition="",  # Partition of Slurm; "": the cluster's own choice.
        account="",  # Account of Slurm; "": the cluster's own choice.
        minutes=24 * 60,  # Until Slurm ends a job, which saves and is queued again.
        nodes=1,  # Machines of each run.
        gpus_per_node=1,  # GPUs of each node; 0: none.
        cpus_per_task=8,  # Cores of a process.
        memory_gb=64,  # Memory of a node, in GB.
        most_at_once=16,  # Jobs of one sweep that run at a time.
        signal_seconds=300,  # How long before the end of its minutes a job is told to save.
        max_requeues=20,  # Times that a run is queued again after exit code 75.
        sbatch=(),  # More options of sbatch, such as ("--exclusive",).
        env_names=(),  # Environment variables that must be set; jobs inherit all.
        wait=False,  # Whether launch.py stays until all jobs have ended.
    ),
    "tpu_vm": dict(
        name="lm",  # Of the VM; NAME-0, NAME-1, ... of several.
        zone="",  # Of Google Cloud; "": the one that gcloud is set to.
        project="",  # Of Google Cloud; "": the one that gcloud is set to.
        accelerator_type="",  # Kind of TPU as gcloud lists it, such as "v6e-8".
        runtime_version="",  # Software as gcloud lists it, such as "v2-alpha-tpuv6e".
        provisioning="on_demand",  # on_demand, spot, preemptible or reserved.
        queued=False,  # Whether VMs are asked for by a queued resource, which waits its turn.
        num_vms=1,  # VMs at a time; the runs of a sweep go one after the other on each.
        create_args=(),  # More options of gcloud's `tpu-vm create`.
        ssh_args=(),  # More options of gcloud's `tpu-vm ssh` and `scp`.
        python="3.11",  # Version of Python there.
        mount="",  # Shell command that gives a new VM the folder that all share.
        remote_folder="",  # The path of --workdir there; "": as here.
        env_names=(),  # Environment variables that runs are to have, secrets among them.
        keep=False,  # Whether VMs stay at the end.
        max_restarts=20,  # Starts of one run after a preemption or a worker that died.
        create_attempts=20,  # How often a VM is asked for, until there is one.
        retry_seconds=120.0,  # Seconds between two attempts to get a VM.
        poll_seconds=20.0,  # Seconds between looks at a VM that is to come.
    ),
    "skypilot": dict(
        infra="",  # Cloud, region and zone, such as "gcp/us-central1"; "": the cheapest.
        accelerators="",  # Of a node, such as "H100:8"; "": none.
        num_nodes=1,  # Machines of each run.
        cpus="",  # Cores of a node, such as "16+" for at least so many; "": any.
        memory="",  # Memory of a node in GB, such as "64+"; "": any.
        disk_gb=256,  # Disk of a node, in GB.
        use_spot=True,  # Whether nodes may be taken away, which are cheaper.
        managed=True,  # Whether SkyPilot starts a run again after that, or after exit code 75.
        mounts=(),  # Buckets as folders, such as ("/mnt/runs=gs://BUCKET",), for --workdir.
        remote_folder="",  # The path of --workdir there; "": as here.
        python="3.11",  # Version of Python there.
        packages=("jax[cuda13]",),  # What nodes need besides requirements.lock.
        env_names=(),  # Environment variables that runs are to have, secrets among them.
    ),
}


def get_config(name: str) -> ml_collections.ConfigDict:
    """`name`: local, vmap, slurm, tpu_vm or skypilot."""
    return ml_collections.ConfigDict(common.choose("launcher", name, _BLOCKS))
