"""Pieces shared by several configs. Plain functions that return plain values."""

import ml_collections


def parse_arg(arg: str | None, **defaults) -> ml_collections.ConfigDict:
    """Parses `--config=file.py:size=small,debug` into typed values.

    Each default gives its option's type; a bare name means True. Unknown names raise, so that a typo
    never trains the wrong model.
    """
    given = dict(
        (part.split("=", 1) if "=" in part else (part, "true"))
        for part in (arg or "").split(",")
        if part
    )
    if unknown := sorted(given.keys() - defaults.keys()):
        raise ValueError(f"unknown argument {unknown[0]!r}; this config takes {', '.join(defaults)}")
    parsed = dict(defaults)
    for name, text in given.items():
        kind = type(defaults[name])
        if kind is bool and text.lower() not in ("true", "false"):
            raise ValueError(f"{name}={text} must be true or false")
        parsed[name] = text.lower() == "true" if kind is bool else kind(text)
    return ml_collections.ConfigDict(parsed)


def choose(name: str, value: str, table: dict):
    """The entry of a table of presets, or an error that lists them."""
    if value not in table:
        raise ValueError(f"{name}={value} is unknown; choose {', '.join(table)}")
    return table[value]


_RULES = {
    "adamw": dict(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1),
    "lion": dict(b1=0.9, b2=0.99, weight_decay=1.0),
    "adafactor": dict(weight_decay=0.0),
    "muon": dict(beta=0.95, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1),
}
_SCHEDULES = {
    "constant": dict(),
    "linear": dict(final_lr_ratio=0.1),
    "cosine": dict(final_lr_ratio=0.1),
    "rsqrt": dict(),
    "wsd": dict(final_lr_ratio=0.1, decay_steps=0),
}


def optimizer(name: str, schedule: str, **settings) -> dict:
    """The optimizer block: the keys that this rule and this schedule read, and no others."""
    return dict(
        name=name,
        schedule=schedule,
        clip_norm=1.0,
        ema_decay=0.0,
        **choose("optimizer", name, _RULES),
        **choose("schedule", schedule, _SCHEDULES),
    ) | dict(settings)


def trunk(experiment: str) -> ml_collections.ConfigDict:
    """The keys that every training config shares, with the values that hardly any needs to change."""
    config = ml_collections.ConfigDict()
    config.experiment = experiment
    config.seed = 0
    config.init_from = ""
    config.loss = dict(z_loss=0.0, label_smoothing=0.0)
    config.checkpoint = dict(every_steps=0, keep_last=2, keep_every=0, best_metric="")
    config.log = dict(every_steps=10, wandb_project="")
    config.parallel = dict(data=-1, fsdp=1)
    return config
