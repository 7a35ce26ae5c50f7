r"""Does a small decoder come to add modulo a prime, long after it knows its training sums by heart?

Command:   python launch.py --config=configs/grokking.py --sweep --workdir=runs/grokking
Hardware:  2 CPU cores; three minutes a seed when they are free
Expected:  docs/results/README.md

After Power et al. 2022, "Grokking", section 3.1 and appendix A.1: two layers of width 128 with 4
heads, AdamW at 1e-3 with b2 = 0.98 and a weight decay of 1, ten steps of warmup, batches of 512.
They append the sum to `a + b =` and predict it there; here a head predicts it behind `a b`, the
modulus is 89, so that a number is a byte, and not 97, and the weight decay spares biases and norms.
Three tenths of all sums are to train on: of half of them both accuracies rise together, 0.96 and
0.98 after 600 steps.
"""

import ml_collections

from configs import classify, common, finetuning
from configs.sweeping import seeds


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: optimizer, schedule, debug for a few steps, modulo 13."""
    arg = common.parse_arg(arg, optimizer="adamw", schedule="constant", debug=False)
    config = finetuning.recipe(
        classify.TASKS["single"],
        arg=finetuning.parse_arg(
            f"model=gpt2,tokenizer=bytes,optimizer={arg.optimizer},schedule={arg.schedule}"
        ),
        scratch={"gpt2": common.gpt2_model(2, 4, 32, 128, vocab_size=384, max_len=8)},
        seq_len=4,
        debug_seq_len=4,
        best_metric="",
        peak_lr=1e-3,
        batch_size=512,
    )
    config.data.update(source="modular_addition", train="89", validation_share=0.7, multiple=4)
    config.optimizer.update(warmup_steps=10, warmup_share=0.0, weight_decay=1.0, clip_norm=0.0)
    if arg.optimizer == "adamw":
        config.optimizer.b2 = 0.98
    config.train.update(num_epochs=0.0, num_steps=4000)
    config.eval.update(every_steps=100, on_training=True)
    config.checkpoint.every_steps = 2000
    config.log.every_steps = 100
    if arg.debug:
        config.data.update(train="13", batch_size=32)
        config.model.update(num_layers=1, num_heads=2, head_dim=16, model_dim=32, mlp_dim=64)
        config.train.num_steps, config.eval.every_steps = 20, 10
        config.checkpoint.every_steps = 10
    return config


def sweep():
    """Three seeds."""
    return seeds(3)
