r"""How much better does a trained model get to know the text of one field, or one language?

Command:   python launch.py --config=configs/adapt.py --config.init_from=RUN_OR_HF_FOLDER \
               --config.data.source=text --config.data.train='field/train/*.txt' \
               --config.data.validation='field/validation/*.txt'
           objective=causal for decoders, masked for encoders, span for T5.
Hardware:  that of the model.
Expected:  a lower validation loss than before the first step, which `configs/evaluate.py` gives.

Continued pretraining on unlabelled text (Gururangan et al. 2020): model and tokenizer are those of
`init_from`, the rate is a tenth of what is usual for a first training. Bits per byte are there for
objective=causal, the only one that predicts every token. After `configs/extend.py` a first phase
with `train.only=new_rows` trains the new rows alone; see docs/languages.md.
"""

import ml_collections

from configs import bert, common, corpora, t5

_OBJECTIVES = {
    "causal": common.objective("causal"),
    "masked": bert.masked(),
    "span": t5.span_corruption(),
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: objective=causal|masked|span, optimizer, schedule, sources=a+b for a mixture of
    corpora (docs/data.md), as of a new language and some of the old one.
    """
    arg = common.parse_arg(
        arg, objective="causal", optimizer="adamw", schedule="cosine", sources=""
    )
    config = common.trunk("pretrain")
    config.model = common.with_dropout(0.0)
    config.data = corpora.text_data(512, 32, arg.sources)
    config.objective = common.choose_by_kind("objective", arg.objective, _OBJECTIVES)
    config.loss = common.language_loss()
    config.train = common.train(num_steps=0, num_epochs=1.0) | dict(
        only="",  # What is trained: new_rows, of configs/extend.py; "": all.
    )
    config.optimizer = common.optimizer(
        arg.optimizer, arg.schedule, peak_lr=5e-5, warmup_steps=0, warmup_share=0.05
    )
    config.eval = common.language_eval(every_steps=200)
    config.checkpoint.every_steps = 200
    return config
