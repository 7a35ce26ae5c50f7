r"""What happens inside a model while it reads a text?

Command:   python launch.py --config=configs/interpret.py:what=attention \
               --config.checkpoint=RUN_OR_HF_FOLDER --config.texts="('The cat sat.',)"
           python launch.py --config=configs/interpret.py:what=tokens \
               --config.checkpoint=RUN --config.texts_file=texts.txt --workdir=runs/look
Hardware:  a CPU; seconds for a few sentences.
Expected:  interpret.html (one file, which needs no network), interpret.json and interpret.npz.

`what` is sites (lists what can be seen, with shapes and bytes, and runs nothing), attention,
tokens, lens, attributions, tracing, induction, probes or neurons; docs/interpret.md says what each
shows.
"""

import ml_collections

from configs import common

_WHATS = (
    "sites",
    "attention",
    "tokens",
    "lens",
    "attributions",
    "tracing",
    "induction",
    "probes",
    "neurons",
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: what=sites|attention|tokens|lens|attributions|tracing|induction|probes|neurons."""
    arg = common.parse_arg(arg, what="sites")
    common.choose("what", arg.what, dict.fromkeys(_WHATS))
    config = common.new("interpret")
    config.what = arg.what  # What is looked at.
    config.checkpoint = ""  # The run, or folder of transformers, that is looked into.
    config.texts = ()  # Texts that it reads.
    config.texts_file = ""  # A file of texts or records in place of these.
    config.texts_format = "auto"  # jsonl, text (a record a line), or auto: by suffix or first line.
    config.max_document_bytes = 100_000_000  # Longest record of the file.
    if arg.what == "attention":
        config.layers = ()  # Indices of the layers that are shown, from 0; (): all.
        config.heads = ()  # Indices of their heads; (): all.
    if arg.what in ("lens", "probes"):
        config.train_file = ""  # Texts, or words and tags, to train on; read as texts_file is.
    if arg.what == "lens":
        config.num_steps = 0  # Of training the translators of a tuned lens; 0: the logit lens.
        config.peak_lr = 1e-3  # First learning rate of Adam, which falls linearly to 0.
        config.batch_size = 8  # Texts a step.
    if arg.what == "attributions":
        # integrated_gradients, gradient_x_input, saliency or attention_rollout.
        config.method = "integrated_gradients"  # How a number is shared out among tokens.
        config.baseline = "zero"  # What gradients are integrated from: zero, pad, mask or mean.
        config.num_nodes = 50  # Nodes of Gauss-Legendre at which gradients are taken.
    if arg.what == "tracing":
        # Of the layers: the residual stream, what attention wrote, its heads, what the MLP wrote.
        sites = ("layers.in", "layers/attention.out", "layers/attention/out.in", "layers/mlp.out")
        config.sites = sites  # What is patched.
        config.chunk_size = 16  # Patched runs at a time; changes no number.
    if arg.what == "induction":
        config.num_sequences = 32  # Random sequences that are read.
        config.sequence_len = 32  # Their tokens, each of which is read twice.
        config.seed = 0  # Draws them.
    if arg.what == "probes":
        config.tokens = "tokens"  # Field of a record that holds its words.
        config.tags = "tags"  # Field of their tags.
        config.inverse_l2 = 1.0  # Times the summed loss, beside half of the squared weights.
    if arg.what == "neurons":
        config.num_shown = 50  # Neurons that the page shows, those that rise highest.
    if arg.what in ("attributions", "tracing"):
        config.target = ""  # Token, label or tag whose logit is explained; "": the likeliest.
        config.versus = ""  # Another one, whose logit is taken away; "": none.
        config.place = -1  # Token that predicts, or word to tag; negative: from the end.
    return config
