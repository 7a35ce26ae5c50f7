"""Bodies of requests that were changed at random, in ways that clients and mistakes change them."""

import json
import random
from collections.abc import Sequence
from typing import Any

_VALUES = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308, 5e-324, "", "a",
    "\u0000", "北京 👋🏽", "x" * 3000, "</s>", [], [[]], {}, [None], ["", "a"], [1, 2], [[1], [2]],
    [1, "a"], [-1], [2**70], {"a": {"b": []}}, [[[[1]]]], "NaN", [{"role": "user"}],
    [{"role": "user", "content": "a"}], [{"role": "user", "content": [{}]}], {"type": "text"},
    [{"role": ["user"], "content": "a"}], {"include_usage": True}, {"messages": 1}, [{}],
    [{"text": 5}], [{"text": "a"}, {}], "base64",
]  # fmt: skip
_NAMES = [
    "model", "prompt", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p",
    "top_k", "min_p", "repetition_penalty", "n", "stop", "seed", "logprobs", "top_logprobs", "echo",
    "stream", "stream_options", "guided_choice", "suffix", "tools", "user", "documents",
    "chat_template_kwargs", "nonsense", "", "prompt\u0000", "input", "records", "encoding_format",
]  # fmt: skip


def mutated(
    rng: random.Random, requests: Sequence[tuple[str, dict[str, Any]]]
) -> tuple[str, bytes]:
    """Changes one of these requests, each a path and a body, in a few ways; returns its bytes."""
    path, body = rng.choice(requests)
    body = dict(body)
    for _ in range(rng.randint(0, 3)):
        body[rng.choice(_NAMES)] = rng.choice(_VALUES)
    data = json.dumps(body, ensure_ascii=rng.random() < 0.5).encode()
    if rng.random() < 0.3:
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) + 1)
            drop = rng.choice([0, 0, 1, 5])
            more = rng.choice([b"", b"\xff", b'"', b"{", b"NaN", b"1e999", b"\\ud800", b"[" * 200])
            data = data[:at] + more + data[at + drop :]
    return path, data
