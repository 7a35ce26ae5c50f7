"""Encodes, decodes, continues and scores texts by a run; docs/library.md shows the use."""

from collections.abc import Sequence
from typing import Any

from lm.errors import UserError
from lm.generation import decoding, scoring
from lm.generation.scoring import Score
from lm.inference import prompting, writing
from lm.loading.run import Run
from lm.models.factory import family_named


def encode(run: Run, text: str) -> list[int]:
    """Returns the token ids that a run reads of a text, with what stands around it there."""
    return prompting.reader_of(run).prompt_ids(text)


def decode(run: Run, ids: Sequence[int]) -> str:
    """Returns the text of token ids; special tokens leave nothing."""
    return run.tokenizer.decode(ids)


def generate(
    run: Run,
    prompts: Sequence[str | Sequence[dict[str, Any]]],
    *,
    system: str = "",
    raw: bool = False,
    stop: Sequence[str] = (),
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 0.95,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    max_new_tokens: int = 100,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    draft: str | Run = "",
    seed: int = 0,
) -> list[str]:
    """Writes one text after each prompt, or as an answer to it: what configs/generate.py writes.

    A prompt that is given twice gets two samples. The other prompts do not change what one gets.

    Args:
      run: of `lm.load`; one that was fine-tuned must have been so to write.
      prompts: texts, or conversations as lists of messages, {"role": ..., "content": ...}, for runs
        with a chat template, which take a text for a user's message.
      system: a message that precedes each prompt, where there is a chat template.
      raw: goes on from each prompt as it stands, without chat template or task.
      stop: texts that end what is written, besides the tokens that do.
      temperature: divides the logits; 0 takes the likeliest token.
      top_k: draws among the k likeliest tokens; 0 among all.
      top_p: draws among the likeliest that together reach this probability; 1 among all.
      min_p: draws among tokens with at least this share of the likeliest one's probability.
      repetition_penalty: divides the logits above 0 of tokens that were read or written, and
        multiplies those below; 1 for none.
      max_new_tokens: of each text, at most.
      num_beams: above 1, the likeliest text is searched for, and nothing is drawn.
      length_penalty: of beams; above 1 favours long texts.
      draft: guesses several tokens, which are checked at once: the same texts, sooner where guesses
        hold. "lookup" takes what stood in the text before; a smaller run of the same tokenizer
        writes them.
      seed: of what is drawn.

    Raises:
      UserError: a run that writes nothing, a setting out of range, or a prompt that is empty, too
        long, or a conversation where there is no chat template.
    """
    _check_list("prompts", prompts)
    writer = writing.make_writer(run, raw=raw, system=system)
    asked = []
    for i, prompt in enumerate(prompts, start=1):
        is_text = isinstance(prompt, str)
        fields = {} if is_text else {"messages": list(prompt)}
        asked.append(writing.Prompt(f"prompt {i}", prompt if is_text else None, fields))
    samples = writing.write(
        writer,
        [writer.prompt_ids(prompt) for prompt in asked],
        seed=seed,
        stop=stop,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens,
        num_samples=1,
        num_beams=num_beams,
        length_penalty=length_penalty,
        draft=draft,
    )
    return [best.text for (best,) in samples]


def score(run: Run, texts: Sequence[str | tuple[str, str]], *, batch_size: int = 8) -> list[Score]:
    """Returns the log-likelihood of each text in nats, and whether each token is the likeliest.

    Args:
      run: of `lm.load`: a decoder, or an encoder with a decoder.
      texts: each a text, all of whose tokens count behind a first token that begins it; or
        (context, text), where those of the text count. Given apart, the two are read as lm_eval
        reads them: the last spaces of the context belong to the text.
      batch_size: of texts at once; logits of B x L x V are held.

    Raises:
      UserError: a run that gives no likelihood to texts, or a text longer than its positions.
    """
    _check_list("texts", texts)
    architecture = family_named(run.config["model"]["name"]).architecture
    if "body" in run.params or architecture == "encoder":
        raise UserError(f"{run.folder} gives no likelihood to text; take a run that writes")
    reader = prompting.reader_of(run)
    # An encoder then reads nothing but the end; a decoder predicts the first token from another.
    first = run.tokenizer.eos_id if reader.has_encoder else reader.prefix_id
    pairs = []
    for text in texts:
        context, text = ("", text) if isinstance(text, str) else text
        pairs.append(reader.pair_ids(context, text) if context else ([first], reader.ids(text)))
    settings = decoding.vocabulary(run.tokenizer)
    return scoring.score(run.model, run.params, pairs, batch_size=batch_size, **settings)


def _check_list(name: str, texts: Any) -> None:
    if isinstance(texts, str):  # It would be taken for a list of its letters.
        raise UserError(f"{name}={texts!r} is one text; give a list: [{texts!r}]")
