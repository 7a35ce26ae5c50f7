"""Arguments of launch.py: from a config and its changes, and back, without any process."""

import json
import os
import pathlib
import re
import shlex
import sys
import traceback
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from lm.errors import UserError
from lm.run import workdir as workdir_lib
from lm.settings import keywords

# What the flag and config libraries raise for what a user wrote.
MISTAKES = (
    flags.Error,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OSError,
    RuntimeError,
    SystemExit,
)


# A key that chooses among alternatives, which have other keys beside it, and the arguments of
# config files that choose the same.
_CHOICES = {
    "optimizer.name": ("optimizer",),
    "optimizer.schedule": ("schedule",),
    "objective.kind": ("objective",),
    "task.kind": ("kind", "task"),
    "tokenizer.kind": ("tokenizer",),
    "model.name": ("model", "family"),
}
CORPUS_KEYS = ("source", "validation", "field")  # Keys of a part of eval.corpora, all texts.
# Of two keys that say one thing, the second gives way to the first, and is 0, where that is set.
_UNSAYS = (
    ("train.num_steps", "train.num_epochs"),
    ("train.num_epochs", "train.num_steps"),
    ("optimizer.warmup_steps", "optimizer.warmup_share"),
    ("optimizer.warmup_share", "optimizer.warmup_steps"),
    ("data.batch_size", "data.batch_size_per_device"),
)


# Recipes of the experiments that have no config file of their name.
_RECIPES = {"pretrain": "quickstart", "finetune": "classify"}
# What a flag must be, by what Python says of one that is not.
_KINDS = {
    "invalid literal for int": "a whole number",
    "could not convert string to float": "a number",
    "Non-boolean argument": "true or false",
}


class RecipeParser(ConfigFileFlagParser):
    """Opens a config file so that each change that a command makes to it needs one argument.

    `--config.optimizer.name=lion` does what `--config=FILE.py:optimizer=lion` does where the file
    takes that argument: the block has lion's keys and the recipe's values for them. And
    `--config.train.num_steps=10` sets `train.num_epochs` to 0. The arguments are those of the whole
    command.
    """

    def __init__(self, name: str, arguments: Sequence[str]):
        super().__init__(name)
        self._arguments = arguments

    def parse(self, path: str) -> ml_collections.ConfigDict:
        """FILE.py:ARGUMENTS -> the config that the file gives, before other changes."""
        config = super().parse(path)
        if not isinstance(config, ml_collections.ConfigDict):
            return config  # There is no such file, which the flag library says later.
        changes = dict(
            arg.removeprefix(f"--{self.name}.").split("=", 1)
            for arg in self._arguments
            if arg.startswith(f"--{self.name}.") and "=" in arg
        )
        _add_corpora(config.get("eval", {}).get("corpora"), changes)
        values = flat(config)
        for key, value in changes.items():
            _check_key(f"--{self.name}.{key}={value}", key, values)
        own = config.get("experiment")
        asked = changes.get("experiment", own)
        file = f"configs/{_RECIPES.get(asked, asked)}.py"
        if asked != own and pathlib.Path(file).is_file():
            raise UserError(
                f"experiment={asked!r} needs other settings than {path} has, which is for "
                f"experiment={own!r}; take --config={file}"
            )
        for key, names in _CHOICES.items():
            # Each path holds the choices before it, so that several may be changed at once.
            for name in names if key in changes else ():
                if flat(config).get(key) != changes[key]:
                    chosen = self._chosen(path, key, f"{name}={changes[key]}")
                    path, config = chosen or (path, config)
        _add_corpora(config.get("eval", {}).get("corpora"), changes)  # It may be another by now.
        for key, other in _UNSAYS:
            value, unsaid = (flat(config).get(k) for k in (key, other))
            is_said = key in changes and changes[key].strip("0.")  # "0" and "0.0" say nothing.
            if is_said and other not in changes and None not in (value, unsaid):
                config.update_from_flattened_dict({other: type(unsaid)(0)})
        return config

    def _chosen(self, path, key, argument):
        """Adds an argument to a path, with its config; None where that does not choose the key."""
        more = f"{path}{',' if ':' in path else ':'}{argument}"
        try:
            found = super().parse(more)
        except (TypeError, ValueError) as error:
            if isinstance(error, ValueError) and "unknown argument" not in str(error):
                raise  # The file takes it, and not this value.
            return None
        # An argument of that name may mean something else in a file of one's own.
        chooses = flat(found).get(key) == argument.partition("=")[2]
        return (more, found) if chooses else None


def _add_corpora(block: ml_collections.ConfigDict | None, changes: Mapping[str, Any]) -> None:
    """Adds to a block of eval.corpora, if there is one, those of which a change names a key."""
    for key in changes if block is not None else ():
        named = re.fullmatch(r"eval\.corpora\.(\w+)\.(\w+)", key)
        if named and named[2] not in CORPUS_KEYS:
            keys = ", ".join(CORPUS_KEYS)
            raise UserError(f"--config.{key}: a corpus of eval.corpora has the keys {keys}")
        if named and named[1] not in block:
            with block.unlocked():
                block[named[1]] = ml_collections.ConfigDict(dict.fromkeys(CORPUS_KEYS, ""))


def _check_key(arg: str, key: str, values: Mapping[str, Any]) -> None:
    """Raises UserError where a key is no name, or names something inside of a value."""
    if not re.fullmatch(r"\w+(\[-?\d+\])*(\.\w+(\[-?\d+\])*)*", key):
        raise UserError(
            f"{arg}: {key!r} is no key; write NAME or BLOCK.NAME, as seed or data.train"
        )
    above, _, name = key.rpartition(".")
    while above and "[" not in above:
        if above in values:
            raise UserError(f"{arg}: {above}={values[above]!r} is a value, with no key {name!r}")
        above = above.rpartition(".")[0]


def _joined(argv: Sequence[str]) -> list[str]:
    """Joins ["--config", "F.py", "-config.seed", "1"] -> ["--config=F.py", "--config.seed=1"]."""
    found: list[str] = []
    for arg in argv:
        opens = found and re.fullmatch(r"--(config|launcher|workdir)(\.[\w.]+)?", found[-1])
        # A dash and a letter begin the next argument; a dash and a digit are a value.
        if opens and not re.match("--?[A-Za-z]", arg):
            found[-1] += f"={arg}"
        else:
            found.append(re.sub(r"^-(?=(config|launcher|workdir)([.=]|$))", "--", arg))
    return found


def expand_short_flags(argv: list[str]) -> None:
    """Writes short forms in full, in place: the config library looks at sys.argv by itself."""
    argv[:] = _joined(argv)
    names = {arg.split("=")[0].lstrip("-") for arg in argv}
    if "config" not in names:
        argv.insert(1, "--config=configs/quickstart.py")
    if "sweep" in names and "launcher" not in names:
        argv.insert(1, "--launcher=local")
    for i, arg in enumerate(argv):
        if arg == "--help_config" and not re.match("[^-]", "".join(argv[i + 1 : i + 2])):
            raise UserError(
                "--help_config=PART names a part of keys' names, as --help_config=warmup"
            )
        if arg == "--sweep=":
            raise UserError("--sweep= names no file; say --sweep for the config's own sweep()")
        if arg == "--sweep":
            argv[i] = "--sweep="
        elif short := re.fullmatch(r"--launcher=(\w+)", arg):
            argv[i] = f"--launcher=configs/launchers.py:{short[1]}"


def profile_steps(text: str) -> tuple[int, int]:
    """Reads "10:15" as (10, 15); raises UserError for what is no two steps."""
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or int(match[1]) > int(match[2]):
        raise UserError(f"--profile={text} must be FIRST:LAST, two steps, such as 10:15")
    return int(match[1]), int(match[2])


def of_config(filename: str, changes: Mapping[str, Any]) -> tuple[str, ...]:
    """Gives the arguments that make a config: ("--config=F.py:arg", "--config.seed=1", ...)."""
    return (f"--config={filename}", *(f"--config.{k}={_text(v)}" for k, v in changes.items()))


def resolve(arguments: Sequence[str]) -> ml_collections.ConfigDict:
    """Makes the locked config that a process with these arguments has.

    Raises:
      UserError: one line about the argument that cannot be followed.
    """
    values = flags.FlagValues()  # Apart from this process's own flags.
    holder = config_flags.DEFINE_config_file(
        "config", None, "", flag_values=values, sys_argv=list(arguments)
    )
    values["config"].parser = RecipeParser("config", arguments)
    try:
        values(["launch.py", *arguments])
        return holder.value.lock()
    except (Exception, SystemExit) as error:
        raise mistake(error, arguments) from None


def mistake(error: BaseException, arguments: Sequence[str]) -> BaseException:
    """Makes a UserError of an error of the flag or config library, or of a config file's code.

    It names the line of a config file where one is to blame. What is neither is a bug, and is
    returned as it is.
    """
    named = [arg.partition("=") for arg in arguments]
    paths = {v.partition(":")[0] for n, _, v in named if n in ("--config", "--launcher")}
    said, one = None, error
    while one is not None:  # The last one is the first that was raised.
        if isinstance(one, UserError):
            return one
        if place := _place(one, paths):
            said = f"{place}: {type(one).__name__}: {' '.join(str(one).split())}"
        one = one.__cause__ or one.__context__
    if said is None and isinstance(error, MISTAKES):
        said = one_line(error, arguments)
    return error if said is None else UserError(said)


def _place(error: BaseException, paths: set[str]) -> str:
    """Says where in one of these config files it was raised; "" where elsewhere."""
    frames = [(f.f_code.co_filename, line) for f, line in traceback.walk_tb(error.__traceback__)]
    for path in paths:
        whole = pathlib.Path(path).resolve()
        is_own = (pathlib.Path(__file__).parent.parent / "configs").resolve() in whole.parents
        # A recipe raises ValueError for its arguments, and is not to blame itself.
        if is_own and isinstance(error, ValueError):
            continue
        if isinstance(error, SyntaxError):  # Of a file that is no text, nothing says more.
            frames.append((error.filename or path, error.lineno or 1))
        lines = [line for file, line in frames if pathlib.Path(file).resolve() == whole]
        if lines:
            return f"{path}, line {lines[-1]}"
    return ""


def one_line(error: Exception, arguments: Sequence[str]) -> str:
    """Says an error of the flag or config library in one line, with the argument it is about."""
    message = error
    while isinstance(message, Exception) and message.args:
        message = message.args[0]  # A KeyError inside an AttributeError, each quoted once more.
    # What a config file raises arrives with its whole traceback as text.
    text = re.sub(r"Traceback \(most.* \w+Error: ", "", " ".join(str(message).split()))
    for start, kind in _KINDS.items():
        text = re.sub(rf": \W*{start}.*", f" must be {kind}", text)
    text = re.sub(r"^flag (--\w+=[^: ]+)\S*: Error whilst parsing config file: ", r"\1: ", text)
    unknown = re.match(r"'(\w+)'", text)
    if unknown is None:
        return text
    pattern = rf"--(config|launcher)\.([\w.]+\.)?{unknown[1]}(=|\.|$)"
    at = [arg for arg in arguments if re.match(pattern, arg)]
    return f"{at[0] if at else unknown[1]} is no key of this config.{text[unknown.end() :]}"


def check_settings(takes: Callable, settings: Mapping[str, Any]) -> None:
    """Raises UserError where a file of one's own has other settings than `takes` has arguments."""
    types = {name: one.annotation for name, one in keywords(takes).items()}
    if unlike := sorted(types.keys() ^ settings.keys()):
        verb = "needs" if unlike[0] in types else "does not take"
        raise UserError(f"--launcher {verb} {unlike[0]}; configs/launchers.py has its settings")
    for name, value in settings.items():
        if not _is_of(types[name], value):
            kind = types[name].__name__.replace("tuple", "tuple of str")
            raise UserError(f"--launcher.{name}={value!r} must be of type {kind}")


def _is_of(kind: type, value: Any) -> bool:
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(isinstance(part, str) for part in value)
    return type(value) in ((int, float) if kind is float else (kind,))


def flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Gives the values of a config by dotted key, as JSON has them: tuples are lists."""
    return workdir_lib.flat(json.loads(config.to_json()))


def _text(value: Any) -> str:
    """A value as the flag of its type reads it; floats keep all their bits."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else repr(value)


def config_text(config: ml_collections.ConfigDict) -> str:
    """YAML, its tuples as lists: YAML has none, and would name Python's."""
    return str(ml_collections.ConfigDict(json.loads(config.to_json())))


def command(*args: str) -> str:
    """A command line of `launch.py` that can be pasted where this one was."""
    python = os.path.relpath(sys.executable)
    return shlex.join(["python" if python.startswith("..") else python, "launch.py", *args])
