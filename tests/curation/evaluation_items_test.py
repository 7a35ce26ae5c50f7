import json
import pathlib
import re

import lm_eval.tasks
import pytest
import yaml

from lm.curation import evaluation_items
from lm.curation.decontamination import Item
from lm.errors import UserError

NONE = dict(files="", fields="", tasks="", include_path="", default_tasks=False)


def write(path, *records):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
    return path


def test_each_text_of_a_record_is_an_item(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        {"question": "谁写了这本书？", "choices": ["a b", "c"], "answer": 1},
        {"question": "Why?", "meta": {"note": "x"}},
    )
    (tmp_path / "b.csv").write_text("text,label\nGood film,positive\n")

    found = list(evaluation_items.read(**NONE | {"files": f"{tmp_path}/*"}))

    assert found == [
        Item(f"{path}:1", "谁写了这本书？"),
        Item(f"{path}:1", "a b c"),
        Item(f"{path}:2", "Why?"),
        Item(f"{path}:2", "x"),
        Item(f"{tmp_path}/b.csv:2", "Good film"),
        Item(f"{tmp_path}/b.csv:2", "positive"),
    ]
    fields = list(evaluation_items.read(**NONE | {"files": str(path), "fields": "question"}))
    assert fields == [
        Item(f"{path}:1 question", "谁写了这本书？"),
        Item(f"{path}:2 question", "Why?"),
    ]


@pytest.fixture
def own_tasks(tmp_path):
    """A folder of a task tiny_items, and a group of it."""
    path = write(tmp_path / "a.jsonl", {"ask": "Who was it?", "answers": ["Ann", "Bo"], "gold": 0})
    task = dict(
        task="tiny_items",
        dataset_path="json",
        dataset_kwargs=dict(data_files={"test": str(path)}),
        test_split="test",
        output_type="multiple_choice",
        doc_to_text="{{ask}}",
        doc_to_choice="{{answers}}",
        doc_to_target="gold",
    )
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(task))
    group = dict(group="tiny_group", task=["tiny_items"])
    (tmp_path / "group.yaml").write_text(yaml.safe_dump(group))
    return NONE | {"include_path": str(tmp_path)}


def test_documents_of_tasks_are_items(own_tasks):
    settings = own_tasks | {"tasks": "tiny_group"}

    found = list(evaluation_items.read(**settings))

    assert found == [Item("tiny_items:0", "Who was it?"), Item("tiny_items:0", "Ann Bo")]
    with pytest.raises(UserError, match="'no_such_task' is unknown to lm_eval"):
        list(evaluation_items.read(**settings | {"tasks": "no_such_task"}))
    path = pathlib.Path(settings["include_path"], "a.jsonl")
    path.unlink()
    with pytest.raises(UserError, match=r"'tiny_items' cannot be loaded: .*a\.jsonl"):
        list(evaluation_items.read(**settings | {"tasks": "tiny_items"}))


def test_all_tasks_are_listed_only_where_those_of_the_folder_do_not_do(own_tasks, monkeypatch):
    listed, real = [], lm_eval.tasks.TaskManager

    def manager(include_path, include_defaults=True):
        listed.append(include_defaults)
        return real(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", manager)
    for tasks, expected in (("tiny_items", [False]), ("tiny_items,tiny_group", [False, True])):
        listed.clear()
        found = evaluation_items.read(**own_tasks | {"tasks": tasks, "default_tasks": True})
        assert {item.name for item in found} == {"tiny_items:0"}
        assert listed == expected


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"files": "{folder}/none.jsonl"}, "decontaminate.files="),
        ({"files": "{folder}/bad.jsonl"}, "bad.jsonl:1: not JSON"),
        (
            {"files": "{folder}/half.jsonl"},
            "half.jsonl:1: character 0 is half a surrogate pair, not Unicode text; mend it$",
        ),
        ({"files": "{folder}/bad.csv"}, "a header of 2; mend the line$"),
        ({"files": "{folder}/a.jsonl", "fields": "text"}, "a.jsonl:1: has no field 'text'"),
        ({"files": "{folder}/a.xyz"}, "the format .xyz is unknown"),
        ({"files": "{folder}/[ae]*.jsonl"}, "empty.jsonl has no text; leave it out"),
        ({"tasks": "x", "include_path": "no/folder"}, "include_path=no/folder is no folder"),
    ],
)
def test_what_cannot_be_read_is_named(changed, named, tmp_path):
    write(tmp_path / "a.jsonl", {"question": "Why?"})
    (tmp_path / "a.xyz").write_text("")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.jsonl").write_text("{\n")
    (tmp_path / "half.jsonl").write_text('{"question": "\\ud800"}\n')
    (tmp_path / "bad.csv").write_text("a,b\n1\n")
    changed = {key: value.format(folder=tmp_path) for key, value in changed.items()}
    with pytest.raises(UserError, match=re.escape(named).replace(r"\$", "$")):
        list(evaluation_items.read(**NONE | changed))
