"""Writes the model card of an export, a README.md: all its facts are read from files."""

import dataclasses
import json
import pathlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from lm.errors import UserError
from lm.interop import hugging_face
from lm.loading.run import Run
from lm.run import status, workdir
from lm.system import atomic_files, folder_files, markdown

FILE = "README.md"
_PIPELINES = {
    "classification": "text-classification",
    "multi_label": "text-classification",
    "regression": "text-classification",
    "tagging": "token-classification",
    "question_answering": "question-answering",
    "chat": "text-generation",
    "bert": "fill-mask",
    "gpt2": "text-generation",
    "llama": "text-generation",
}
_CODE = re.compile(r"[\w.+-]{1,40}")  # Of a licence or a language, as the Hub names them.
_MOST_ORIGINS = 20  # Runs that were made of runs.


@dataclasses.dataclass(frozen=True)
class Stated:
    """What people say of a model, by the codes of the Hub, such as apache-2.0 and en.

    licence: "" for that of the model that it was made of, if that one's card states it.
    languages: () likewise, or those of the curated corpus that it was trained on.
    """

    licence: str = ""
    languages: tuple[str, ...] = ()

    def __post_init__(self):
        for key in ("licence", "languages"):
            given = getattr(self, key)
            for code in [given] * bool(given) if isinstance(given, str) else given:
                if not _CODE.fullmatch(code):
                    raise UserError(
                        f"{key}={code!r} is no code of the Hub, such as apache-2.0 or en"
                    )


def write(run: Run, target: pathlib.Path, stated: Stated, *, library: str, use: str) -> None:
    """Writes README.md, with the head that the Hub reads.

    Args:
      run: what was exported.
      target: the folder of the export.
      stated: what no file says.
      library: that reads it, as the Hub names it.
      use: code that reads it.
    """
    config = workdir.read_json(run.folder / workdir.CONFIG)
    corpora = _corpora(config)
    origin = _head_of_origin(run.folder)
    licence = stated.licence or origin.get("license", "")
    found = sorted({one["language"] for corpus in corpora for one in corpus["written"]})
    languages = list(stated.languages) or origin.get("language", []) or found
    name = run.folder.resolve().name
    metrics = _metrics(run.folder, run.step)
    head = {
        "library_name": library,
        "pipeline_tag": _pipeline(run.config),
        "license": licence,
        "language": languages,
        "tags": [run.config["model"]["name"]],
        "model-index": _model_index(name, run.config, metrics),
    }
    head = {key: value for key, value in head.items() if value}
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {markdown.cell(name)}",
        *_about(run, config, licence, languages),
        "## Use",
        markdown.fenced(use, "bash" if use.startswith(("llama", "python ")) else "python"),
        "## Results",
        _results(run, metrics),
        "## Data",
        _data(config, corpora),
        "## Starts",
        _starts(run.folder),
        "## Settings",
        markdown.fenced((run.folder / workdir.CONFIG).read_text(encoding="utf-8-sig"), "json"),
    ]
    atomic_files.write(target / FILE, "\n\n".join(sections) + "\n")


def _about(run: Run, config: dict[str, Any], licence: str, languages: Sequence[str]) -> list[str]:
    kind = run.config["task"]["kind"] if "task" in run.config else ""
    what = [f"A {run.config['model']['name']}", f"for {kind}" * bool(kind), f"at step {run.step}"]
    lines = [f"{' '.join(filter(None, what))}."]
    if made_of := _made_of(config):
        lines.append(f"It was made of {markdown.cell(made_of)}.")
    lines.append(
        f"Its licence is {markdown.cell(licence)}." if licence else "Nobody stated its licence."
    )
    if not languages:
        lines.append("Nobody stated its languages.")
    return [" ".join(lines)]


def _pipeline(config: dict[str, Any]) -> str:
    """Names what the Hub's widget would do; "" for what it has no name for."""
    task = config.get("task", {"kind": config["model"]["name"]})
    return task["scorer"] if task["kind"] == "seq2seq" else _PIPELINES.get(task["kind"], "")


def _head_of_origin(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the licence and languages that the card of the model states that a run came from."""
    for _ in range(_MOST_ORIGINS):
        if hugging_face.is_folder(folder):
            return _head(folder / FILE)
        config = workdir.load_config(folder)
        folder = pathlib.Path(_made_of(config))
        if not (str(folder) != "." and (folder / workdir.CONFIG).is_file()):
            break
    return {}


def _made_of(config: dict[str, Any]) -> str:
    """Names the folder of the model that a run began with, of adapters their base; "" for none."""
    return next(filter(None, map(config.get, ("init_from", "base", "source"))), "")


def _head(path: pathlib.Path) -> dict[str, Any]:
    """Reads what counts of a card's head; {} where it has none."""
    if not folder_files.has(path):
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    found = re.match(r"\s*---\n(.*?)\n---", text, re.DOTALL)
    try:
        head = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:
        return {}
    head = head if isinstance(head, dict) else {}
    languages = head.get("language")
    languages = languages if isinstance(languages, list) else [languages]
    is_code = lambda x: isinstance(x, str) and bool(_CODE.fullmatch(x))
    kept = {"language": [*filter(is_code, languages)]}
    return kept | ({"license": head["license"]} if is_code(head.get("license")) else {})


def _metrics(folder: pathlib.Path, step: int) -> dict[str, tuple[float, int]]:
    """Gives the last value of each metric up to a step, and its own step."""
    found: dict[str, tuple[float, int]] = {}
    for record in status.read_records(folder)[0]:
        if record["step"] <= step:
            found |= {
                name: (value, record["step"])
                for name, value in record.items()
                if name.startswith(("eval/", "training_set/")) and value is not None
            }
    return found


def _model_index(
    name: str, config: dict[str, Any], metrics: dict[str, tuple[float, int]]
) -> list[dict[str, Any]]:
    values = {k: value for k, (value, _) in metrics.items() if k.startswith("eval/")}
    if not values:
        return []
    data = config.get("data", {})
    data_name = data.get("source") or data.get("validation") or "validation data of the run"
    result = {
        "task": {"type": _pipeline(config) or "other"},
        "dataset": {"name": str(data_name), "type": str(data_name)},
        "metrics": [
            {"type": key.removeprefix("eval/"), "value": value} for key, value in values.items()
        ],
    }
    return [{"name": name, "results": [result]}]


def _results(run: Run, metrics: dict[str, tuple[float, int]]) -> str:
    rows = [(name, json.dumps(value), str(step)) for name, (value, step) in metrics.items()]
    parts = [markdown.table(("metric", "value", "at step"), rows)]
    path = run.folder / "result.json"
    result = workdir.read_json(path) if folder_files.has(path) else {}
    if result.get("step") == run.step and result.get("baselines"):
        rows = [
            (baseline, name, json.dumps(value))
            for baseline, values in result["baselines"].items()
            for name, value in values.items()
        ]
        parts += ["What takes no model:", markdown.table(("guess", "metric", "value"), rows)]
    return "\n\n".join(parts)


def _corpora(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Reads the reports of the curated corpora that a run was trained on, those still there."""
    data = config.get("data", {})
    sources = [data.get("source"), *(x.get("source") for x in data.get("sources", {}).values())]
    folders = [
        pathlib.Path(source.removeprefix("curated:"))
        for source in sources
        if isinstance(source, str) and source.startswith("curated:")
    ]
    return [
        {
            "folder": folder,
            "inputs": workdir.load_config(folder).get("inputs", {}),
            "written": workdir.read_json(folder / "report.json")["written"],
        }
        for folder in folders
        if (folder / "report.json").is_file() and (folder / workdir.CONFIG).is_file()
    ]


def _data(config: dict[str, Any], corpora: list[dict[str, Any]]) -> str:
    parts = ["Settings say which data it was, and the starts its hash."]
    if "data" not in config:
        parts = ["The files of this model do not say what it was trained on."]
    for corpus in corpora:
        licences = {
            name: one.get("licence") or "not stated" for name, one in corpus["inputs"].items()
        }
        header = ("input", "its licence", "language", "documents", "bytes")
        rows = [
            (
                x["source"],
                licences[x["source"]],
                x["language"],
                *map(str, (x["documents"], x["num_bytes"])),
            )
            for x in corpus["written"]
        ]
        parts += [f"Of {markdown.cell(str(corpus['folder']))}:", markdown.table(header, rows)]
    return "\n\n".join(parts)


def _starts(folder: pathlib.Path) -> str:
    header = ("time", "commit", "data", "devices", "packages", "command")
    rows = []
    for start in workdir.starts(folder):
        commit = start["git_commit"] or "none"
        packages = {"python": start.get("python", "")} | start.get("packages", {})
        rows.append(
            (
                start.get("time", ""),
                f"{commit} and changes" if start["git_dirty"] else commit,
                start["data_hash"] or "none",
                start["devices"],
                ", ".join(f"{name} {number}" for name, number in packages.items()),
                shlex.join(start.get("command", [])),
            )
        )
    return markdown.table(header, rows)
