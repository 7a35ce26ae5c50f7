"""Tiny folders of `transformers` of every kind, with random weights, to look into."""

import numpy as np
import tokenizers as hf
import torch
import transformers as t
from tokenizers import pre_tokenizers, processors

CORPUS = ["The cat sat on the mat.", "the dog saw the cat", "北京是中国的首都。", "שלום עולם"] * 4
_BODY = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)


def _tokenizer(folder):
    """Bytes by BPE, so that a Chinese character is several pieces; `<s> text </s>`."""
    tokenizer = hf.ByteLevelBPETokenizer()
    special = ["<pad>", "<s>", "</s>", "<mask>"]
    tokenizer.train_from_iterator(CORPUS, vocab_size=280, special_tokens=special)
    raw = hf.Tokenizer.from_str(tokenizer.to_str())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = dict(pad_token="<pad>", bos_token="<s>", eos_token="</s>", mask_token="<mask>")
    names |= dict(cls_token="<s>", sep_token="</s>")
    saved = t.PreTrainedTokenizerFast(tokenizer_object=raw, **names)
    saved.save_pretrained(folder)
    return len(saved)


MAKERS = {
    "gpt2": lambda n: t.GPT2LMHeadModel(
        t.GPT2Config(vocab_size=n, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=1)
    ),
    "llama": lambda n: t.LlamaForCausalLM(
        t.LlamaConfig(vocab_size=n, max_position_embeddings=64, **_BODY)
    ),
    "bert": lambda n: t.BertForMaskedLM(
        t.BertConfig(vocab_size=n, max_position_embeddings=64, **_BODY)
    ),
    "classifier": lambda n: t.BertForSequenceClassification(
        t.BertConfig(
            vocab_size=n,
            max_position_embeddings=64,
            id2label={0: "bad", 1: "good", 2: "差"},
            **_BODY,
        )
    ),
    "t5": lambda n: t.T5ForConditionalGeneration(
        t.T5Config(
            vocab_size=n, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, pad_token_id=0
        )
    ),
}


def save(kind, folder):
    """Writes a folder, and returns the model of `transformers`, with what it attends to."""
    model, rng = MAKERS[kind](_tokenizer(folder)), np.random.default_rng(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            # By NumPy, whose numbers are the same in all versions.
            noise = torch.tensor(0.2 * rng.standard_normal(parameter.shape), dtype=torch.float32)
            parameter.copy_(
                noise + float("norm" in name.lower() or "ln_" in name) * ("bias" not in name)
            )
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder, attn_implementation="eager").eval()
