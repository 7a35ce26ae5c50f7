"""Log-likelihoods of the tokens of texts, by any model of language, trained or not."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from flax import linen as nn

from lm.errors import UserError
from lm.generation import decoding, scoring
from lm.inference import prompting
from lm.interop import hugging_face
from lm.loading.run import Run
from lm.models.factory import family_named
from lm.models.parameters import Params

Ids = tuple[int, ...]
Text = tuple[str, str]  # What stands before it, or "", and the text whose tokens are scored.


class Scorer(NamedTuple):
    """Holds a model of language, and how it reads a text.

    kind: "log-likelihood" of each token behind those before it; of an encoder, which sees all of
      what stands before it and of the text, "pseudo-log-likelihood" with the token masked.
    """

    model: nn.Module
    params: Params
    kind: str
    encode: Callable[[str, str], tuple[Ids, Ids]]  # What is read before a text; and its tokens.
    room: int | None  # Most tokens of both; None for any number.
    score: Callable[[Params, Sequence[tuple[Ids, Ids]]], list[tuple[float, ...]]]

    def __call__(
        self, params: Params, texts: Sequence[Text]
    ) -> tuple[dict[Text, Ids], dict[Text, tuple[float, ...]]]:
        """Gives the tokens of each text, and with these parameters their log-likelihoods.

        Raises:
          UserError: a text that is longer than the model's positions.
        """
        ids = self.read(texts)
        different = sorted(set(ids.values()))  # Texts of the same tokens score the same.
        found = dict(zip(different, self.score(params, different), strict=True))
        return {text: pair[1] for text, pair in ids.items()}, {x: found[y] for x, y in ids.items()}

    def read(self, texts: Sequence[Text]) -> dict[Text, tuple[Ids, Ids]]:
        """Gives what is read before each text, and its tokens.

        Raises:
          UserError: a text that is longer than the model's positions.
        """
        ids = {text: self.encode(*text) for text in texts}
        for (_, text), pair in ids.items():
            num = sum(map(len, pair))
            if self.room is not None and num > self.room:
                raise UserError(
                    f"a text of {num} tokens exceeds the {self.room} that the model has positions "
                    f"for; shorten it: {text!r}"
                )
        return ids


def make_scorer(run: Run, batch_size: int) -> Scorer:
    """Finds how a run gives likelihood to texts; its params come from `run.load`.

    Raises:
      UserError: a run that gives none, or an encoder without a mask token.
    """
    architecture = family_named(run.config["model"]["name"]).architecture
    is_bare = hugging_face.is_folder(run.folder) and hugging_face.is_bare_encoder(run.folder)
    if "body" in run.params or is_bare:
        raise UserError(
            f"checkpoint={run.folder} gives no likelihood to text; take a model of language"
        )
    if architecture == "encoder":
        return _of_encoder(run, batch_size)
    tokenizer, reader = run.tokenizer, prompting.reader_of(run)
    # As `texts.score`: an encoder reads nothing but the end, a decoder predicts the first token
    # from another.
    first = tokenizer.eos_id if reader.has_encoder else reader.prefix_id
    if first is None:
        raise UserError(f"checkpoint={run.folder} has a tokenizer without <s> or </s>")
    settings = decoding.vocabulary(tokenizer) | {"batch_size": batch_size}

    def encode(context, text):
        before, ids = reader.pair_ids(context, text) if context else ([first], reader.ids(text))
        return tuple(before) or (first,), tuple(ids)

    def score(params, pairs):
        return [one.of_tokens for one in scoring.score(run.model, params, pairs, **settings)]

    # The last token is predicted, and not read.
    room = None if reader.has_encoder or not run.model.config.max_len else run.model.config.max_len
    return Scorer(run.model, run.params, "log-likelihood", encode, room and room + 1, score)


def _of_encoder(run: Run, batch_size: int) -> Scorer:
    tokenizer, reader = run.tokenizer, prompting.reader_of(run)
    if tokenizer.mask_id is None:
        raise UserError(
            f"checkpoint={run.folder} is an encoder whose tokenizer has no mask token, so that "
            "nothing can be masked; take one that was trained with masks"
        )
    frames = prompting.frames_of(run)
    start, end = (tokenizer.frame(1) if frames is None else frames[0]).special_ids
    reader = reader._replace(affixes=prompting.PromptAffixes((), ()))

    def encode(context, text):
        before, ids = reader.pair_ids(context, text) if context else ((), reader.ids(text))
        return (*start, *before), tuple(ids)

    def score(params, pairs):
        framed = [
            ([*before, *ids, *end], range(len(before), len(before) + len(ids)))
            for before, ids in pairs
        ]
        return scoring.pseudo_log_likelihoods(
            run.model,
            params,
            framed,
            mask_id=tokenizer.mask_id,
            vocab_size=tokenizer.vocab_size,
            batch_size=batch_size,
        )

    room = run.model.config.max_len - len(end)
    return Scorer(run.model, run.params, "pseudo-log-likelihood", encode, room, score)
