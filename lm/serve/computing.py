"""Opens what predicts and what makes vectors, each with a thread of its own."""

from collections.abc import Sequence

from jax.sharding import Mesh

from lm.data.records import Record
from lm.inference.embedding import Embedder
from lm.inference.predicting import Replies, make_predictor
from lm.loading.run import Run
from lm.loading.task_model import SavedTaskModel
from lm.models.factory import family_named
from lm.serve.batching import Batches
from lm.serve.served_model import ServedEmbedder, ServedTask
from lm.tasks.prediction import Predicted

# Greedy, as configs/predict.py has it; a conversation is better asked of /v1/chat/completions.
_REPLIES = Replies(
    max_new_tokens=256,
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    repetition_penalty=1.0,
    seed=0,
)


def open_task(run: SavedTaskModel, mesh: Mesh, *, batch_size: int, max_waiting: int) -> ServedTask:
    """Opens what a run was fine-tuned for; see `make_predictor`."""
    predictor = make_predictor(
        run, mesh, batch_size=batch_size, replies=_REPLIES, has_few_shapes=True
    )

    def predict(records: Sequence[Record]) -> list[Predicted]:
        return list(predictor(records))

    batches = Batches(predict, compile_all=predictor.compile, max_waiting=max_waiting)
    return ServedTask(run.config["task"]["kind"], run.task.from_text, batches)


def open_embedder(run: Run, *, pooling: str, max_waiting: int) -> ServedEmbedder:
    """Opens an encoder; see `Embedder`."""
    embedder = Embedder(run, pooling=pooling)
    batches = Batches(embedder, compile_all=embedder.compile, max_waiting=max_waiting)
    return ServedEmbedder(embedder.ids, batches)


def embeds(run: Run) -> bool:
    """Whether `open_embedder` takes a run."""
    return family_named(run.config["model"]["name"]).architecture == "encoder"
