"""Chooses the tokenizer class that `transformers` 5 takes for a folder."""

import pathlib
from typing import Any

from lm.errors import UserError
from lm.system.progress_bar import say
from lm.tokenizers.tokenizer_classes import CLASSES, GENERIC

# The class of a model_type that has one of its own, by the table of `transformers` 5.
_OF_MODEL = {
    model_type: name
    for name, model_types in {
        "BertTokenizer": "bert distilbert electra mobilebert convbert layoutlm megatron-bert "
        "nomic_bert squeezebert",
        "GPT2Tokenizer": "gpt2 gpt_neo gptj opt phi codegen starcoder2 dbrx",
        "RobertaTokenizer": "roberta bart longformer roberta-prelayernorm data2vec-text",
        "GPTNeoXTokenizer": "gpt_neox olmo olmoe mamba mamba2 mpt rwkv falcon_mamba",
        "Qwen2Tokenizer": "qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next",
        "T5Tokenizer": "t5 mt5 switch_transformers",
        "XLMRobertaTokenizer": "xlm-roberta xmod",
        "GemmaTokenizer": "gemma gemma2 gemma3 gemma3_text gemma3n t5gemma recurrent_gemma",
        "AlbertTokenizer": "albert yoso",
        "MBartTokenizer": "mbart",
        "CamembertTokenizer": "camembert",
        GENERIC: "mistral mixtral mistral3 ministral granite granitemoe olmo2 olmo3 glm glm4 "
        "stablelm gpt_bigcode umt5 xlm-roberta-xl nystromformer persimmon phi3 phimoe modernbert "
        "modernbert-decoder ernie4_5 internlm2 internlm3 minicpm3 nemotron jamba llava",
    }.items()
    for model_type in model_types.split()
}
# Model types whose folders are known to name a wrong class, so that the one above is taken.
_FORCED = {"qwen2", "phi3", "phimoe", "modernbert", "modernbert-decoder", "nemotron", "jamba"}
_FORCED |= {"ernie4_5", "internlm2", "internlm3", "minicpm3", "llava"}
# Classes that are another one by now.
_SAME = dict.fromkeys(("PreTrainedTokenizer", "PythonBackend", "BloomTokenizer"), GENERIC)
_SAME |= dict.fromkeys(("BartTokenizer", "LongformerTokenizer"), "RobertaTokenizer")
_BERTS = ("DistilBert", "Electra", "MobileBert", "ConvBert", "LayoutLM")
_SAME |= {f"{name}Tokenizer": "BertTokenizer" for name in _BERTS}


def class_of(path: pathlib.Path, config: dict[str, Any], said: dict[str, Any]) -> str:
    """Returns the name of the class that AutoTokenizer takes for a folder.

    Args:
      path: of its tokenizer.json, if there is one.
      config: config.json.
      said: tokenizer_config.json.

    Raises:
      UserError: model_type is no text.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str | None):
        at = path.parent / "config.json"
        raise UserError(f"{at}: model_type={model_type!r} is no name; restore the file")
    own = _OF_MODEL.get(model_type)
    named = said.get("tokenizer_class") or config.get("tokenizer_class")
    if not isinstance(named, str):
        return own or GENERIC
    named = named.removesuffix("Fast")
    named = _SAME.get(named, named)
    if own == GENERIC or (own is not None and model_type in _FORCED):
        return own
    if named == "LlamaTokenizer" and path.is_file() and b'"ByteLevel"' in path.read_bytes():
        return GENERIC  # Llama 3 and others, whose folders name the class of Llama 2.
    if named not in (GENERIC, *CLASSES) and path.is_file():
        say(f"{path}: read as it stands, for tokenizer_class={named} beside it is unknown here")
    return named
