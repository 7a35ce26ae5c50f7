"""Runs one experiment: `python launch.py --config=configs/X.py --workdir=DIR`."""

from lm.system import allocator

if __name__ == "__main__":  # Before more is imported, since it starts this program anew.
    allocator.use_huge_pages()

import gc
import logging as std_logging
import pathlib
import signal
import sys
from collections.abc import Callable

import ml_collections
from absl import flags, logging
from ml_collections import config_flags

from experiments import cli, config_help
from experiments.sweeps import launch
from experiments.wiring.number_ranges import check_numbers
from lm.errors import UserError
from lm.system import faults, interrupts, output, safe_text, supervisor

# No default here: this library would load it while this file is imported, and so before `main`.
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The config file; FILE.py:key=value,... passes arguments. configs/quickstart.py if not given.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Output folder; runs/CONFIG if not given.")
_PRINT_CONFIG = flags.DEFINE_bool("print_config", False, "Print the resolved config, then exit.")
_HELP_CONFIG = flags.DEFINE_string(
    "help_config", None, "Say what the config keys are that have this in their name, then exit."
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print parameters, FLOPs, memory and a decoded batch; train nothing."
)
_DEVICES = flags.DEFINE_integer(
    "devices", None, "Of a dry run: as if there were so many accelerators; none is needed."
)
_VERIFY = flags.DEFINE_bool("verify", False, "Check what runs promise; see docs/verify.md.")
_SWEEP = flags.DEFINE_string(
    "sweep", None, "Train what sweep() of this file yields; --sweep alone: of the config file."
)
_LAUNCHER = config_flags.DEFINE_config_file(
    "launcher", None, "How runs are started: local, vmap, ...; local with --sweep if not given."
)
_SHOW_BATCH = flags.DEFINE_integer("show_batch", None, "Print what this step saw, then exit.")
_PROFILE = flags.DEFINE_string("profile", None, "FIRST:LAST, the steps to trace for XProf.")
_EXTEND = flags.DEFINE_bool(
    "extend", False, "Lets the run in --workdir go on to more steps than it was made with."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "Joins other processes: HOST:PORT of the first one, or auto on Cloud TPU, Slurm and Open MPI.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many; not with auto.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which this one is, from 0; not with auto.")
_CONNECT_SECONDS = flags.DEFINE_integer("connect_seconds", 300, "How long to wait for the others.")
_HEARTBEAT_SECONDS = flags.DEFINE_integer("heartbeat_seconds", 100, "Silence until one is dead.")
_MODES = (_DRY_RUN, _VERIFY, _SHOW_BATCH, _PROFILE)
_PRINTED = ("generate", "predict")  # Experiments for whoever reads what they print.
_TRAINING_FLAGS = (*_MODES, _EXTEND, _COORDINATOR)


def main(argv: list[str]) -> int:
    """Parses the flags, runs what they ask for, returns the exit code.

    0: done. 1: --verify found a promise that is not kept, or a model that is served failed. 2: a
    mistake that the user can mend, or a fault of the machine; one line of it on stderr. 75: told to
    stop, and saved; the same command goes on. 130, 143, 129: ended by ctrl-C, SIGTERM, SIGHUP where
    nothing could be saved.
    """
    interrupts.keep()
    # What is imported and traced at a start is millions of objects that stay, and looking for
    # garbage among them was a tenth of it.
    gc.set_threshold(100_000)
    try:
        return _run(argv)
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt as error:
        what = f"ended by {error}" if isinstance(error, interrupts.Terminated) else "interrupted"
        code = 128 + getattr(error, "signum", signal.SIGINT)  # As shells have it.
        return _fail(f"{what}; the same command starts anew, or from the last checkpoint", code)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and output.has_lost_reader():
            return 0  # Whoever read this has seen enough.
        line = faults.one_line(error)
        if line is None:  # A bug, which keeps its traceback.
            raise
        return _fail(line)


def _fail(message: str, code: int = 2) -> int:
    print(f"error: {safe_text.one_line(message)}", file=sys.stderr)
    return code


def _print_help() -> int:
    print(f"{__doc__}\n")
    for holder in (x for x in globals().values() if isinstance(x, flags.FlagHolder)):
        print(f"--{holder.name}: {flags.FLAGS[holder.name].help}")
    print("\n--config.KEY=VALUE changes a key of the config; --help_config=PART says what each is.")
    print("configs/README.md lists the configs; README.md says where the documents are.")
    return 0


def _run(argv: list[str]) -> int:
    if {"-h", "-help", "--help", "--helpfull", "--helpshort"} & {*argv}:
        return _print_help()
    config = _parse(argv)
    if _PRINT_CONFIG.value:
        filename = config_flags.get_config_filename(flags.FLAGS["config"])
        print(config_help.config_text(config, filename), end="")
        return 0
    if _HELP_CONFIG.value is not None:
        return config_help.print_help(_HELP_CONFIG.value)
    if _COORDINATOR.value is not None and not supervisor.is_watched():
        # XLA aborts a process that loses another one, from within; a parent can say why.
        return supervisor.watch(_COORDINATOR.value, _CONNECT_SECONDS.value)
    if _SWEEP.value is not None or _LAUNCHER.value is not None:
        output.outlive_readers()
        return _launch()
    # Imported here, so that a mistyped flag is answered at once.
    from lm.parallel import hosts

    with hosts.connected(
        _COORDINATOR.value,
        num_processes=_NUM_PROCESSES.value,
        process_id=_PROCESS_ID.value,
        connect_seconds=_CONNECT_SECONDS.value,
        heartbeat_seconds=_HEARTBEAT_SECONDS.value,
    ):
        return _dispatch(config)


def _parse(argv: list[str]):
    """The locked config of the command line; every failure is a UserError of one line."""
    cli.expand_short_flags(argv)
    for arg in argv:
        name, _, value = arg.partition("=")
        if name in ("--config", "--launcher") and not pathlib.Path(value.split(":")[0]).is_file():
            raise UserError(f"{arg}: there is no such file; see configs/README.md")
    flags.FLAGS["config"].parser = cli.RecipeParser("config", argv)
    try:  # Files that are read here are a user's code, and may raise anything.
        rest = flags.FLAGS(argv)[1:]
        for flag in (_CONFIG, _LAUNCHER):
            if flag.present and not isinstance(flag.value, ml_collections.ConfigDict):
                raise UserError(f"--{flag.name}: its get_config() must return a ConfigDict")
        config = _CONFIG.value.lock()
    except (Exception, SystemExit) as error:
        raise cli.mistake(error, argv) from None
    if "experiment" not in config:
        raise UserError(
            f"--config={config_flags.get_config_filename(flags.FLAGS['config'])}: the config has "
            "no key `experiment`, which says what to do; see configs/README.md"
        )
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}; every option is written --name=value")
    asked = [f"--{flag.name}" for flag in _MODES if flag.value not in (None, False)]
    if _EXTEND.value:  # It trains, and so does --profile.
        asked += [] if asked == ["--profile"] else ["--extend"]
    if len(asked) > 1:
        raise UserError(f"{' and '.join(asked)} are several things to do; ask for one")
    if _VERIFY.value and _COORDINATOR.value is not None:
        raise UserError("--verify is for one process; leave out --coordinator")
    logging.use_absl_handler()
    logging.get_absl_handler().setFormatter(std_logging.Formatter("warning: %(message)s"))
    return config


def _launch() -> int:
    """Has a launcher run it, in other processes or by vmap in this one; see docs/sweeps.md."""
    from experiments.launchers import local, skypilot, slurm, tpu_vm, vmap
    from experiments.sweeps import plan

    # Spelled out, as the experiments below.
    launchers = dict(local=local, vmap=vmap, slurm=slurm, tpu_vm=tpu_vm, skypilot=skypilot)
    name = config_flags.get_config_filename(flags.FLAGS["launcher"]).partition(":")[2]
    if name not in launchers:
        raise UserError(f"--launcher={name} is unknown; choose {', '.join(launchers)}")
    of_a_run = (_VERIFY, _SHOW_BATCH, _PROFILE, _EXTEND, _DEVICES)
    for flag in (*of_a_run, _COORDINATOR, _NUM_PROCESSES, _PROCESS_ID):
        if flag.present:
            raise UserError(f"--{flag.name} is about a run here; leave out --sweep and --launcher")
    base = plan.Base(
        config_flags.get_config_filename(flags.FLAGS["config"]),
        config_flags.get_override_values(flags.FLAGS["config"]),
    )
    is_sweep = _SWEEP.value is not None
    return launch.launch(
        base,
        (_SWEEP.value or base.filename.partition(":")[0]) if is_sweep else None,
        _workdir("-sweep" if is_sweep else ""),
        launchers[name],
        _LAUNCHER.value.to_dict(),
        can_search=name == "local",
        dry_run=_DRY_RUN.value,
    )


def _dispatch(config) -> int:
    from lm.parallel import hosts
    from lm.system.cache import keep_compiled_programs

    if _COORDINATOR.value is not None:
        from flax.traverse_util import flatten_dict

        given = flatten_dict(config.to_dict(), sep=".") | {"--workdir": _workdir()}
        given |= {f"--{flag.name}": flag.value for flag in (_DRY_RUN, _SHOW_BATCH, _DEVICES)}
        hosts.check_same("config", given)  # Or they would wait for each other's collectives.
    check_numbers(config.to_dict())
    run = _experiment(config.experiment)
    asked = [flag.name for flag in _TRAINING_FLAGS if flag.present]
    if config.experiment == "curate" and asked == ["dry_run"]:
        from experiments import curate

        return curate.dry_run(config.to_dict())
    if asked and config.experiment not in ("pretrain", "finetune"):
        raise UserError(f"--{asked[0]} is about training, and experiment={config.experiment!r}")
    if _DEVICES.present and not _DRY_RUN.value:
        raise UserError(f"--devices={_DEVICES.value} is about --dry_run; add that, or leave it out")
    if config.experiment not in _PRINTED:
        output.outlive_readers()
    if _VERIFY.value:
        from experiments.verify import verify

        verify.start_devices(config.parallel)  # Before anything asks for any.
        keep_compiled_programs()
        with verify.opened(config) as subject:
            return verify.run(subject)
    keep_compiled_programs()
    if _DRY_RUN.value or _SHOW_BATCH.value is not None:
        from experiments import dry_run

        if _DRY_RUN.value:
            dry_run.run(config, _DEVICES.value)
        else:
            dry_run.show_batch(config, _SHOW_BATCH.value)
        return 0
    if config.experiment in ("pretrain", "finetune"):
        steps = None if _PROFILE.value is None else cli.profile_steps(_PROFILE.value)
        return run(config, _workdir(), profile_steps=steps, extend=_EXTEND.value)
    return run(config, _workdir())


def _experiment(name: str) -> Callable[..., int]:
    """The function that runs this experiment; all of them together take a second to import."""
    # Spelled out, so that a reader (and an IDE) can jump to the code that runs.
    match name:
        case "pretrain":
            from experiments.pretrain import run
        case "finetune":
            from experiments.finetune import run
        case "evaluate":
            from experiments.evaluate import run
        case "generate":
            from experiments.generate import run
        case "serve":
            from experiments.serve import run
        case "predict":
            from experiments.predict import run
        case "harness":
            from experiments.harness import run
        case "convert":
            from experiments.convert import run
        case "extend":
            from experiments.extend import run
        case "fertility":
            from experiments.fertility import run
        case "fairness":
            from experiments.fairness.fairness import run
        case "coordinates":
            from experiments.coordinates import run
        case "interpret":
            from experiments.interpret import run
        case "curate":
            from experiments.curate import run
        case _:
            raise UserError(
                f"experiment={name!r} is unknown; choose pretrain, finetune, evaluate, generate, "
                "serve, predict, interpret, harness, convert, extend, fertility, fairness, "
                "coordinates, curate"
            )
    return run


def _workdir(ending: str = "") -> pathlib.Path:
    """--workdir, or a folder named after the config file."""
    filename = config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]
    return pathlib.Path(_WORKDIR.value or f"runs/{pathlib.Path(filename).stem}{ending}")


if __name__ == "__main__":
    output.guard()
    sys.exit(main(sys.argv))
