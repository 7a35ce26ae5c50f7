"""Makes transformer_lens_reference.json beside this file: patch sweeps of TransformerLens 4.3.0.

`python -m tests.interpret.transformer_lens_reference`, where transformer_lens is installed beside
what the tests need. Of the tiny GPT-2, from a clean text into a corrupted one.

Dimension key: N layers, L length, H heads.
"""

import json
import pathlib
import tempfile

import torch
import transformers
from transformer_lens import patching
from transformer_lens.model_bridge import TransformerBridge

from tests import interpret_folders

CLEAN, CORRUPTED = "the cat 1 on the mat", "the cat 2 on the mat"
PATH = pathlib.Path(__file__).with_name("transformer_lens_reference.json")
SWEEPS = {
    "layers.in": patching.get_act_patch_resid_pre,
    "layers/attention.out": patching.get_act_patch_attn_out,
    "layers/mlp.out": patching.get_act_patch_mlp_out,
    "layers/attention/out.in": patching.get_act_patch_attn_head_out_all_pos,
    "layers/attention/value.out": patching.get_act_patch_attn_head_v_all_pos,
    "layers/attention/probs.out": patching.get_act_patch_attn_head_pattern_all_pos,
}


def main():
    with tempfile.TemporaryDirectory() as folder:
        interpret_folders.save("gpt2", pathlib.Path(folder))
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        # Nothing is folded or centred: parameters are those of the folder.
        bridge = TransformerBridge.boot_transformers(folder, device="cpu")
    # A text to go on from has no end.
    clean, corrupted = (
        torch.tensor([tokenizer(text)["input_ids"][:-1]]) for text in (CLEAN, CORRUPTED)
    )
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(clean)
        target = int(logits[0, -1].argmax())
        value = lambda logits: logits[0, -1, target]
        first = float(value(bridge(corrupted)))
        found = {
            "ids": [clean[0].tolist(), corrupted[0].tolist()],
            "target": target,
            "values": [float(value(logits)), first],
        }
        shown = lambda rows: [[float(f"{v - first:.8g}") for v in row] for row in rows.tolist()]
        found["effects"] = {
            site: shown(sweep(bridge, corrupted, cache, value)) for site, sweep in SWEEPS.items()
        }
    PATH.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
