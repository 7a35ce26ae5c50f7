"""Reads what /v1/predict is asked, and lays predictions out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm.data.records import Record
from lm.errors import UserError
from lm.serve import fields
from lm.serve.computation import Computation
from lm.serve.fields import Field
from lm.serve.refusal import Refusal, invalid
from lm.serve.served_model import ServedModel, needs
from lm.tasks.prediction import Predicted

_MAX_RECORDS = 1024
# Names of tasks, by what people ask for.
TASKS = {
    "classify": ("classification", "multi_label", "regression"),
    "tag": ("tagging",),
    "answer": ("question_answering",),
    "translate": ("seq2seq",),
    "summarize": ("seq2seq",),
}
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {}


def reader(name: str | None) -> Callable[[Mapping[str, Any], ServedModel], Computation]:
    """Makes the reader of /v1/predict, or with a name of `TASKS` of that path."""

    def read(body: Mapping[str, Any], model: ServedModel) -> Computation:
        """Reads a request for predictions of records, or of texts where a task reads no more.

        Raises:
          Refusal: a field is unknown, or the model has no such task.
        """
        values = fields.parse(body, _KNOWN, _UNSUPPORTED)
        task = needs(model, model.task, "was trained for no task")
        if name is not None and task.kind not in TASKS[name]:
            raise Refusal(
                f"{model.name} was trained for {task.kind}; ask /v1/predict",
                param="model",
                code="model_not_supported",
            )
        records = _records(values, model)

        def answer(found: Sequence[Predicted]) -> dict[str, Any]:
            return {
                "object": "list",
                "model": model.name,
                "task": task.kind,
                "data": [_shown(i, each) for i, each in enumerate(found)],
            }

        return Computation(model, task.batches, records, answer)

    return read


def _records(values: Mapping[str, Any], model: ServedModel) -> list[Record]:
    if (values["records"] is None) == (values["input"] is None):
        raise Refusal(
            "give either records, a list of objects with the fields that the task reads, or input, "
            "a text or a list of texts",
            param="records",
            code="missing_required_parameter",
        )
    if values["input"] is not None:
        from_text = model.task.from_text
        try:
            return [from_text(f"input[{i}]", text) for i, text in enumerate(values["input"])]
        except UserError as error:
            raise Refusal(str(error), param="input", code="invalid_value") from None
    return [Record(f"records[{i}]", dict(one)) for i, one in enumerate(values["records"])]


def _objects(name: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise Refusal(f"{name} must be a list of objects", param=name, code="invalid_type")
    if not 1 <= len(value) <= _MAX_RECORDS:
        raise invalid(name, f"has {len(value)} objects, and may have 1 to {_MAX_RECORDS}")
    return value


def _shown(index: int, each: Predicted) -> dict[str, Any]:
    if isinstance(each.prediction, UserError):
        message = str(each.prediction)
        raise Refusal(message, param=message.partition(":")[0], code="invalid_value")
    shown = {"object": "prediction", "index": index, "prediction": each.prediction}
    return shown | ({"cut": True} if each.is_cut else {})


_KNOWN = {
    "model": Field(fields.text),
    "records": Field(_objects),
    "input": Field(fields.texts(1, _MAX_RECORDS, or_one=True)),
    "user": Field(fields.text),
}
