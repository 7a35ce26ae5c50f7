"""The runs of `benchmarks.finetuning` by the `Trainer` of `transformers`: `CASE FOLDER OUTPUT`.

As its users would have them on a CPU: batches of like lengths, fused AdamW, one evaluation and one
checkpoint with the optimiser's state at the end. The C library gets the memory settings that we
give ourselves.
"""

import argparse
import json
import os
import pathlib
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks import finetuning_cases

_RATES = dict(learning_rate=5e-5, adam_beta2=0.95, weight_decay=0.1, warmup_steps=0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=finetuning_cases.CASES)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--step_seconds", help="a file that gets wall and processor time of steps")
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    transformers.logging.set_verbosity_error()
    trainer, validation = _CASES[args.case](args)
    if args.case != "predictions":
        trainer.train()
        print(trainer.evaluate())
        trainer.save_model()
    if args.case == "lora":  # Its evaluation is the loss, and all that is said of an answer.
        return
    predictions = trainer.predict(validation)
    with (args.output / "predictions.jsonl").open("w") as file:
        for row in np.asarray(predictions.predictions):
            file.write(json.dumps({"prediction": np.asarray(row).tolist()}) + "\n")
    print(predictions.metrics)


def _settings(args, kind=transformers.TrainingArguments, **more) -> Any:
    size = finetuning_cases.BATCH_SIZE
    return kind(
        output_dir=str(args.output),
        use_cpu=True,
        per_device_train_batch_size=size,
        per_device_eval_batch_size=size,
        num_train_epochs=finetuning_cases.NUM_EPOCHS,
        train_sampling_strategy="group_by_length",
        optim="adamw_torch_fused",
        save_strategy="epoch",
        logging_steps=10,
        report_to="none",
        disable_tqdm=True,
        **_RATES,
        **more,
    )


def _texts(args, tokenizer, split: str, labels: list[str]) -> list[dict[str, Any]]:
    found = finetuning_cases.records(args.folder, split)
    encoded = tokenizer([record["text"] for record in found], truncation=True, max_length=128)
    rows = zip(encoded["input_ids"], encoded["attention_mask"], found, strict=True)
    return [
        {"input_ids": ids, "attention_mask": mask, "labels": labels.index(record["label"])}
        for ids, mask, record in rows
    ]


def _accuracy(found) -> dict[str, float]:
    return {"accuracy": float(np.mean(np.argmax(found.predictions, -1) == found.label_ids))}


def _classification(args):
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.folder / "model")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        args.folder / "model", num_labels=2
    )
    train, validation = (
        _texts(args, tokenizer, split, ["long", "short"]) for split in ("train", "validation")
    )
    trainer = transformers.Trainer(
        model,
        _settings(args),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        compute_metrics=_accuracy,
        callbacks=_callbacks(args),
    )
    return trainer, validation


def _tagged(args, tokenizer, split: str, tags: list[str]) -> list[dict[str, Any]]:
    found = finetuning_cases.records(args.folder, split)
    encoded = tokenizer(
        [record["tokens"] for record in found],
        is_split_into_words=True,
        truncation=True,
        max_length=128,
    )
    rows = []
    for i, record in enumerate(found):
        words, labels = encoded.word_ids(i), []
        for at, word in enumerate(words):  # The first piece of each word has its tag.
            is_first = word is not None and word != words[at - 1]
            labels.append(tags.index(record["tags"][word]) if is_first else -100)
        names = ("input_ids", "attention_mask")
        rows.append({name: encoded[name][i] for name in names} | {"labels": labels})
    return rows


def _f1(found) -> dict[str, float]:
    from seqeval.metrics import f1_score

    tags = np.array(["O", "B-NAME", "B-NUM"])
    given, said = [], []
    for labels, logits in zip(found.label_ids, found.predictions, strict=True):
        is_tagged = labels != -100
        given.append(tags[labels[is_tagged]].tolist())
        said.append(tags[np.argmax(logits[is_tagged], -1)].tolist())
    return {"f1": float(f1_score(given, said))}


def _tagging(args):
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.folder / "model")
    model = transformers.AutoModelForTokenClassification.from_pretrained(
        args.folder / "model", num_labels=3
    )
    train, validation = (
        _tagged(args, tokenizer, split, ["O", "B-NAME", "B-NUM"])
        for split in ("train", "validation")
    )
    trainer = transformers.Trainer(
        model,
        _settings(args),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=transformers.DataCollatorForTokenClassification(tokenizer),
        compute_metrics=_f1,
        callbacks=_callbacks(args),
    )
    return trainer, validation


def _seq2seq(args):
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.folder / "model")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(args.folder / "model")

    def encode(split):
        found = finetuning_cases.records(args.folder, split)
        of = lambda name, most: tokenizer(
            [record[name] for record in found], truncation=True, max_length=most
        )
        sources, targets = of("source", 512), of("target", 32)
        return [
            {"input_ids": ids, "attention_mask": mask, "labels": labels}
            for ids, mask, labels in zip(
                sources["input_ids"], sources["attention_mask"], targets["input_ids"], strict=True
            )
        ]

    def rouge(found):
        from rouge_score import rouge_scorer

        scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
        text = lambda ids: tokenizer.decode(ids[ids >= 0], skip_special_tokens=True)
        scores = [
            scorer.score(text(target), text(said))
            for target, said in zip(found.label_ids, found.predictions, strict=True)
        ]
        return {"rougeL": float(np.mean([score["rougeL"].fmeasure for score in scores]))}

    train, validation = encode("train"), encode("validation")
    trainer = transformers.Seq2SeqTrainer(
        model,
        _settings(
            args,
            transformers.Seq2SeqTrainingArguments,
            predict_with_generate=True,
            generation_max_length=32,
            generation_num_beams=1,
        ),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer, model),
        compute_metrics=rouge,
        callbacks=_callbacks(args),
    )
    return trainer, validation


def _lora(args):
    import peft

    tokenizer = transformers.AutoTokenizer.from_pretrained(args.folder / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(args.folder / "model")
    names = ("q", "k", "v", "o", "gate", "up", "down")
    settings = peft.LoraConfig(r=8, lora_alpha=16, target_modules=[f"{n}_proj" for n in names])
    model = peft.get_peft_model(model, settings)

    def encode(split):
        rows = []
        for record in finetuning_cases.records(args.folder, split):
            encoded = tokenizer.apply_chat_template(
                record["messages"],
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
            ids, masks = encoded["input_ids"], encoded["assistant_masks"]
            labels = [i if mask else -100 for i, mask in zip(ids, masks, strict=True)]
            rows.append(
                {"input_ids": ids, "attention_mask": encoded["attention_mask"], "labels": labels}
            )
        return rows

    validation = encode("validation")
    trainer = transformers.Trainer(
        model,
        _settings(args, prediction_loss_only=True),
        train_dataset=encode("train"),
        eval_dataset=validation,
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer),
        callbacks=_callbacks(args),
    )
    return trainer, validation


def _predictions(args):
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.folder / "model")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(args.folder / "model")
    trainer = transformers.Trainer(
        model,
        _settings(args),
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        compute_metrics=_accuracy,
    )
    return trainer, _texts(args, tokenizer, "train", ["long", "short"])


_CASES = {
    "classification": _classification,
    "tagging": _tagging,
    "seq2seq": _seq2seq,
    "lora": _lora,
    "predictions": _predictions,
}


def _callbacks(args) -> list:
    if not args.step_seconds:
        return []
    import time

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.start = time.perf_counter(), time.process_time()

        def on_step_end(self, *_, **__):
            now = time.perf_counter(), time.process_time()
            with open(args.step_seconds, "a") as file:
                spent = [b - a for a, b in zip(self.start, now, strict=True)]
                file.write(json.dumps(spent) + "\n")

    return [Clock()]


if __name__ == "__main__":
    main()
