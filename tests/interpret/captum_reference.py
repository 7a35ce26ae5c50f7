"""Makes captum_reference.json beside this file: what captum 0.9.0 attributes on tiny models.

`python -m tests.interpret.captum_reference`, where captum is installed beside what the tests need.
"""

import json
import pathlib
import tempfile

import captum.attr
import torch
import transformers

from tests import interpret_folders

TEXT, NUM_NODES = "The cat 北京 sat.", 20
PATH = pathlib.Path(__file__).with_name("captum_reference.json")


def embedded_and_forward(kind, model, ids):
    """What stands behind the embeddings, and the logits from there on that are explained."""
    if kind == "gpt2":
        positions = model.transformer.wpe(torch.arange(ids.shape[1]))[None]
        forward = lambda x: model(inputs_embeds=x - positions).logits[:, -1]
        return model.transformer.wte(ids) + positions, forward

    def classify(x):
        x = model.bert.encoder(x)[0]
        return model.classifier(model.bert.pooler(x))

    return model.bert.embeddings(ids), classify


def reference(kind):
    with tempfile.TemporaryDirectory() as folder:
        model = interpret_folders.save(kind, pathlib.Path(folder))
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    ids = ids[:, :-1] if kind == "gpt2" else ids  # A text to go on from has no end.
    x, forward = embedded_and_forward(kind, model, ids)
    x = x.detach()
    target = int(forward(x).argmax())
    integrated = captum.attr.IntegratedGradients(forward).attribute(
        x, torch.zeros_like(x), target=target, n_steps=NUM_NODES, method="gausslegendre"
    )
    of = lambda method: method(forward).attribute(x.requires_grad_(), target=target)
    found = {
        "integrated_gradients": integrated,
        "gradient_x_input": of(captum.attr.InputXGradient),
        "saliency": of(captum.attr.Saliency),
    }
    shown = lambda array: [[float(f"{v:.8g}") for v in row] for row in array[0].tolist()]
    arrays = {name: shown(array.detach()) for name, array in found.items()}
    return {"ids": ids[0].tolist(), "target": target} | arrays


if __name__ == "__main__":
    found = {kind: reference(kind) for kind in ("gpt2", "classifier")}
    PATH.write_text(json.dumps(found) + "\n")
