"""What do drafts save? `python -m benchmarks.drafts` prints one JSON line.

    python -m benchmarks.drafts --checkpoint=runs/quickstart
    python -m benchmarks.drafts --checkpoint=runs/large --draft=runs/small   # those of a run

A run goes on greedily from files of code, one at a time, token by token and by drafts in turns, of
prompt lookup or of a smaller run.
Without a run it is GPT-2 124M with random weights, which repeats itself, so that its ratio says
what drafts may save at most, and nothing of what code is like.
"""

import argparse
import pathlib
import statistics
import time

import jax

from benchmarks import generation, results
from configs import gpt2
from lm.corpus.sources import make_source
from lm.generation import sampling, speculative
from lm.generation.draft_model import DraftModel
from lm.loading.run import load
from lm.models.factory import make_model
from lm.models.families import init_params
from lm.models.kv_cache import unstack_for_decoding
from lm.models.parameters import num_params

TARGET = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=pathlib.Path, help="a decoder; random weights without")
    parser.add_argument("--draft", type=pathlib.Path, help="a smaller run of the same tokenizer")
    parser.add_argument("--num_prompts", type=int, default=8)
    parser.add_argument("--prompt_len", type=int, default=128)
    parser.add_argument("--new_tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    for name, size in generation.SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=size, help="of random weights")
    args = parser.parse_args()
    model, params, prompts, vocab_size = _made(args)
    size = num_params(params)
    params = unstack_for_decoding(params, model.config.dtype)
    settings = dict(
        vocab_size=vocab_size,
        max_new_tokens=args.new_tokens,
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        stop_ids=[],
    )
    key = jax.random.key(0)
    draft = load(args.draft) if args.draft else None
    draws = {name: value for name, value in settings.items() if name != "stop_ids"}
    draws |= dict(copy=0, min_p=0.0, repetition_penalty=1.0)
    small = draft and (draft.model, unstack_for_decoding(draft.params, draft.model.config.dtype))

    def guess(prompt):
        return DraftModel(*small, prompt, key, **draws) if small else speculative.Lookup()

    def plain():
        found = [sampling.sample(model, params, [prompt], key, **settings) for prompt in prompts]
        return [sample for (sample,) in found], args.new_tokens * len(prompts)

    def drafted():
        found = [
            speculative.sample(model, params, prompt, key, guess=guess(prompt), **settings)
            for prompt in prompts
        ]
        return [sample for sample, _ in found], sum(num_passes for _, num_passes in found)

    ways = {"plain": plain, "drafted": drafted}
    (texts, _), (same, num_passes) = plain(), drafted()  # Compiled here.
    num_alike = sum(a == b for a, b in zip(texts, same, strict=True))
    seconds, processor = ({name: [] for name in ways} for _ in range(2))
    for i in range(args.rounds):
        for name in list(ways)[:: 1 if i % 2 else -1]:
            at = time.perf_counter(), time.process_time()
            ways[name]()
            seconds[name].append(time.perf_counter() - at[0])
            processor[name].append(time.process_time() - at[1])
    num_tokens = args.new_tokens * len(prompts)
    speed = {name: num_tokens / statistics.median(times) for name, times in seconds.items()}
    ratios = lambda spent: [a / b for a, b in zip(spent["plain"], spent["drafted"], strict=True)]
    results.emit(
        "drafts",
        device=jax.default_backend(),
        packages=("jax",),
        shape={
            "num_params": size,
            "prompt_len": args.prompt_len,
            "new_tokens": args.new_tokens,
            "num_prompts": len(prompts),
        },
        unit="tokens_per_second",
        ours=round(speed["drafted"], 1),
        peer="token by token",
        theirs=round(speed["plain"], 1),
        ratio=round(statistics.median(ratios(seconds)), 3),
        target={"ratio": TARGET},
        note="trained" if args.checkpoint else "random weights",
        processor_ratio=round(statistics.median(ratios(processor)), 3),
        tokens_a_pass=round(num_tokens / num_passes, 2),
        texts_alike=num_alike,
        rounds=args.rounds,
    )


def _made(args):
    """A model, its parameters, prompts of code as tokens, and the size of the vocabulary."""
    source = make_source("python_stdlib", split="validation", spec="", field="")
    documents = [document.text for document in source.documents()]
    documents = [text for text in documents if len(text) > 20 * args.prompt_len]
    if args.checkpoint:
        run = load(args.checkpoint)
        ids = run.tokenizer.encode_batch(documents[: args.num_prompts])
        prompts = [row[: args.prompt_len].tolist() for row in ids]
        return run.model, run.params, prompts, run.tokenizer.vocab_size
    prompts = [list(text.encode()[: args.prompt_len]) for text in documents[: args.num_prompts]]
    config = gpt2.get_config("size=small")
    config.model.update({name: getattr(args, name) for name in generation.SIZES})
    config.model.update(
        head_dim=args.model_dim // args.num_heads,
        mlp_dim=4 * args.model_dim,
        max_len=max(config.model.max_len, args.prompt_len + args.new_tokens),
    )
    model = make_model(config.model, causal=True)
    params = jax.jit(lambda: init_params(model, jax.random.key(0)))()
    return model, params, prompts, args.vocab_size


if __name__ == "__main__":
    main()
