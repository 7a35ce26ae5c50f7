"""Apache Beam, which is optional: pipelines of it on the runner that a config names."""

import contextlib
import dataclasses
import io
import logging
import os
import pathlib
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from lm.errors import UserError

T = TypeVar("T")
IN_PROCESS = "FnApiRunner"
INSTALL = "pip install apache-beam"
_ASKS_GITHUB = ("direct", "directrunner", "switchingdirectrunner")
# Of the text that Beam makes of what was raised in another process.
_SAID = re.compile(r"lm\.errors\.UserError: (.*?)(?: \[while running .*)?$", re.M)
_OF_MACHINE = re.compile(r"\w+: \[Errno (\d+)\] (.*?)(?:: '(.*?)')?(?: \[while running .*)?$", re.M)
_NO_MODULE = re.compile(r"ModuleNotFoundError: (No module named '.*?')")
_KILLED = "RuntimeError: Channel closed prematurely."
_PROJECT = pathlib.Path(__file__).parent.parent.parent
# Beam runs functions in many threads of a process, which come and go. In one that stays, they need
# not be safe under threads, and processes that die with the thread that started them live on.
_THREAD = ThreadPoolExecutor(1)


@dataclasses.dataclass(frozen=True)
class Beam:
    """A runner of Beam, by its name, and options as Beam's own programs take them."""

    runner: str
    options: tuple[str, ...]

    def run(self, build: Callable[[Any], Any]) -> None:
        """Runs the pipeline that `build` makes of an empty one, to its end.

        Raises:
          UserError, OSError: raised by what the pipeline applies.
          UserError: the runner ended it otherwise.
        """
        import apache_beam

        pipeline = apache_beam.Pipeline(runner=self.runner, options=_parsed(self.options))
        build(pipeline)
        log = logging.getLogger(apache_beam.__name__)
        level = log.level
        if self.runner == IN_PROCESS:  # It logs what it raises, too, and with its whole stack.
            log.setLevel(logging.CRITICAL)
        try:
            with _project_on_path():
                state = pipeline.run().wait_until_finish()
        except Exception as error:  # Runners have no class in common for what they raise.
            # Either what was raised there, with more behind its text, or another with that text.
            text = "".join(traceback.format_exception_only(error))
            if (mendable := _mendable(self.runner, text)) is None:
                raise
            raise mendable from None
        finally:
            log.setLevel(level)
        if state != "DONE":
            raise UserError(f"{self.runner} ended a pipeline as {state}; its own log says why")

    def tasks(self, pipeline: Any, tasks: Sequence[Any]) -> Any:
        """Gives a collection of tasks, each of which any worker may take."""
        import apache_beam
        from apache_beam.options.pipeline_options import DirectOptions

        mode = _parsed(self.options).view_as(DirectOptions).direct_running_mode
        # Each transform costs some 10 ms of every pipeline, and `Create` is three.
        tasks = list(tasks)
        made = pipeline | apache_beam.Impulse() | apache_beam.FlatMap(lambda _: tasks)
        is_alone = self.runner == IN_PROCESS and mode == "in_memory"
        return made if is_alone else made | apache_beam.Reshuffle()


def _mendable(runner: str, text: str) -> UserError | OSError | None:
    """Finds in the text of an error what users, or their machine's, can mend."""
    if said := _SAID.findall(text):
        return UserError(said[-1])
    if of_machine := _OF_MACHINE.findall(text):
        number, what, path = of_machine[-1]
        return OSError(int(number), what, path or None)
    if missing := _NO_MODULE.findall(text):
        return UserError(
            f"the workers of {runner} lack what is here: {missing[-1]}; see docs/beam.md for what "
            "they need"
        )
    if _KILLED in text:
        return UserError(
            f"a worker of {runner} was killed, as the kernel does where memory is short; free "
            "some, and run the same command again"
        )
    return None


@contextlib.contextmanager
def _project_on_path() -> Iterator[None]:
    """Lets processes that Beam starts here import this project, from whatever folder it runs."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_PROJECT), before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def in_turn(function: Callable[..., T], *args: Any) -> T:
    """Calls a function while no other call of this process runs, always in the same thread."""
    return _THREAD.submit(function, *args).result()


def make_beam(block: str, *, runner: str, options: Sequence[str]) -> Beam:
    """Checks what a config says of Beam, in its keys `runner` and `options` under `block`.

    Raises:
      UserError: Beam is not installed, or knows no such runner or option.
    """
    if not runner:
        raise UserError(f"{block}.runner is empty, and {block}.options={options!r} are for one")
    logging.disable(logging.WARNING)  # It warns of clients of a cloud, which few ask for.
    try:
        import apache_beam  # noqa: F401 - for the error.
        from apache_beam.runners.runner import create_runner
    except ImportError:
        raise UserError(f"{block} needs Apache Beam; run: {INSTALL}") from None
    finally:
        logging.disable(logging.NOTSET)
    if runner.rpartition(".")[2].lower() in _ASKS_GITHUB:
        raise UserError(
            f"{block}.runner={runner!r} asks GitHub for a program first; name {IN_PROCESS}"
        )
    try:
        create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"{block}.runner={runner!r}: {_one_line(error)}") from None
    for option in options:
        if not option.startswith("--"):
            raise UserError(f"{block}.options: {option!r} must begin with --, as --NAME=VALUE")
        if re.match("--runner(=|$)", option):
            raise UserError(f"{block}.options: {option!r} belongs into {block}.runner")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):  # By argparse, with all that it knows.
            parsed = _parsed(options)
            known = parsed.get_all_options()
    except SystemExit:
        raise UserError(f"{block}.options: {printed.getvalue().strip().splitlines()[-1]}") from None
    unknown = parsed.get_all_options(retain_unknown_options=True).keys() - known.keys()
    # Other runners hand what Beam's Python does not know to their servers, which do.
    if unknown and runner == IN_PROCESS:
        raise UserError(f"{block}.options: {IN_PROCESS} knows no --{min(unknown)}")
    return Beam(runner, tuple(options))


def _parsed(options: Sequence[str]) -> Any:
    from apache_beam.options.pipeline_options import PipelineOptions

    return PipelineOptions(list(options))  # Always a list: without one it reads sys.argv.


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
