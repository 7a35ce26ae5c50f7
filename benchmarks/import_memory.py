"""How much memory does importing weights take? `python -m benchmarks.import_memory` prints JSON.

Writes a Llama of random bfloat16 weights in shards as `transformers` would, imports it in a process
of its own, and compares the peak of that process, less what it held when the import began, with
the largest shard plus the model's parameters in float32.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile

import ml_dtypes
import numpy as np
import safetensors.numpy

from benchmarks import results

ALLOWED = 1.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_layers", type=int, default=12)
    parser.add_argument("--model_dim", type=int, default=1024)
    parser.add_argument("--shard_mb", type=int, default=200)
    parser.add_argument("--convert", nargs=2, help="set for the process that this one starts")
    args = parser.parse_args()
    if args.convert:
        return convert(*map(pathlib.Path, args.convert))
    with tempfile.TemporaryDirectory() as folder:
        source, target = pathlib.Path(folder) / "source", pathlib.Path(folder) / "target"
        source.mkdir()
        num_params, largest_shard = write(source, args)
        command = [sys.executable, "-m", "benchmarks.import_memory"]
        command += ["--convert", str(source), str(target)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peak = int(out.split()[-1])
    allowed = largest_shard + 4 * num_params
    results.emit(
        "import_memory",
        device="cpu",
        packages=("jax", "safetensors"),
        shape={"parameters": num_params, "num_layers": args.num_layers},
        unit="bytes",
        ours=peak,
        peer="the largest shard plus the parameters in float32",
        theirs=allowed,
        ratio=round(allowed / peak, 3),
        target={"bytes": round(ALLOWED * allowed)},
        note=f"Peak of importing bfloat16 shards; at most {ALLOWED} of the peer.",
        largest_shard_bytes=largest_shard,
    )


def convert(source: pathlib.Path, target: pathlib.Path) -> None:
    """Imports, and prints how many bytes the peak lies above the start."""
    import jax

    from configs import convert as convert_config
    from experiments import convert

    jax.devices()
    before = current_bytes()
    config = convert_config.get_config()
    config.update(source=str(source), target=str(target))
    convert.run(config, target)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(peak - before)


def current_bytes() -> int:
    """Memory that this process holds now."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def write(folder: pathlib.Path, args: argparse.Namespace) -> tuple[int, int]:
    """A folder of `transformers`; returns its number of parameters and its largest file's bytes."""
    D, F, V = args.model_dim, 4 * args.model_dim, 32000
    shapes = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    for i in range(args.num_layers):
        shapes |= {f"model.layers.{i}.self_attn.{n}_proj.weight": (D, D) for n in "qkvo"}
        shapes |= {f"model.layers.{i}.mlp.{n}_proj.weight": (F, D) for n in ("gate", "up")}
        shapes[f"model.layers.{i}.mlp.down_proj.weight"] = (D, F)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{i}.{norm}.weight"] = (D,)
    shards, size = [{}], 0
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        tensor = rng.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16)
        if size + tensor.nbytes > args.shard_mb * 1e6:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    weight_map = {}
    for i, shard in enumerate(shards, start=1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        safetensors.numpy.save_file(shard, folder / file)
        weight_map |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = dict(
        model_type="llama",
        vocab_size=V,
        hidden_size=D,
        intermediate_size=F,
        num_hidden_layers=args.num_layers,
        num_attention_heads=D // 64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    (folder / "config.json").write_text(json.dumps(config))
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
    tokenizer.save(str(folder / "tokenizer.json"))
    num_params = sum(int(np.prod(shape)) for shape in shapes.values())
    return num_params, max(file.stat().st_size for file in folder.glob("*.safetensors"))


if __name__ == "__main__":
    main()
