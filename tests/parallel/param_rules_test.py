import dataclasses
import re
import types

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from configs import families
from experiments.wiring import init_from, pretraining
from lm.corpus.packing import Piece
from lm.errors import UserError
from lm.models.families import FAMILIES, param_shapes
from lm.objectives.causal import causal
from lm.parallel import mesh as mesh_lib
from lm.parallel.batches import place_batch
from lm.parallel.mesh import make_mesh, process_shard, with_mesh
from lm.parallel.param_rules import params_sharding
from lm.train import compile
from lm.train.optimizers import make_optimizer
from lm.train.step import TrainState
from tests import tiny
from tests.models.all_families_test import CONFIGS

ONE = dict(strategy="jit", data=1, fsdp=1, tensor=1, sequence=1)


def mesh_of(**sizes):
    """A mesh of devices that need not be there."""
    sizes = dict(data=1, fsdp=1, tensor=1, sequence=1) | sizes
    return AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * 4)


def shapes_of(name, **changes):
    config = tiny.CONFIG if name == "gpt2" else CONFIGS[name]
    config = dataclasses.replace(config, vocab_size=24, **changes)
    return param_shapes(FAMILIES[name].module(config))


def specs_of(tree, mesh):
    shardings = params_sharding(tree, mesh)
    flat, _ = jax.tree_util.tree_flatten_with_path(shardings)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x.spec for p, x in flat}


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama", "t5"])
def test_every_matrix_is_cut_by_both_axes_that_cut_parameters(name):
    more = {"num_kv_heads": 2} if name == "llama" else {}
    specs = specs_of(shapes_of(name, **more), mesh_of(fsdp=2, tensor=2))

    assert all("layers" not in path or spec[0] is None for path, spec in specs.items())
    whole = {path for path, spec in specs.items() if not any(spec)}
    assert all(re.search(r"norm/|out/bias|next_sentence|(pooler|transform)/bias", p) for p in whole)
    matrices = [p for p in specs if re.search("(attention|mlp)/.*kernel|token_embedding", p)]
    assert all({"fsdp", "tensor"} <= set(specs[path]) for path in matrices) and matrices


def test_projections_are_cut_where_their_heads_and_widths_are():
    specs = specs_of(shapes_of("gpt2"), mesh_of(fsdp=2, tensor=2))

    assert specs["layers/attention/query/kernel"] == P(None, "fsdp", "tensor", None)
    assert specs["layers/attention/out/kernel"] == P(None, "tensor", None, "fsdp")
    assert specs["layers/mlp/in/kernel"] == P(None, "fsdp", "tensor")
    assert specs["layers/mlp/out/kernel"] == P(None, "tensor", "fsdp")
    assert specs["token_embedding"] == P("tensor", "fsdp")


def test_a_parameter_without_a_rule_is_named():
    shapes = {"layers": {"gizmo": {"kernel": jax.ShapeDtypeStruct((2, 4, 4), np.float32)}}}

    with pytest.raises(UserError, match="layers/gizmo/kernel has no rule"):
        params_sharding(shapes, mesh_of())


@pytest.mark.parametrize(
    ("name", "changes", "sizes", "message"),
    [
        ("gpt2", {}, dict(tensor=4), r"num_heads.*=2 .* parallel\.tensor=4 .*attention/key/bias"),
        ("llama", {}, dict(tensor=2), r"model\.num_kv_heads.*=1 .* parallel\.tensor=2"),
        ("gpt2", dict(mlp_dim=33), dict(tensor=2), r"model\.mlp_dim=33 .* parallel\.tensor=2"),
        ("gpt2", {}, dict(fsdp=3), r"model\.model_dim=8 .* parallel\.fsdp=3"),
    ],
)
def test_what_a_mesh_cannot_divide_is_named(name, changes, sizes, message):
    with pytest.raises(UserError, match=message):
        params_sharding(shapes_of(name, **changes), mesh_of(**sizes))


def test_padding_of_the_vocabulary_is_offered_and_counted():
    with pytest.raises(
        UserError, match=r"vocab_size=23 .*model\.vocab_size=24 adds 1 row.*convert"
    ):
        params_sharding(tiny.shapes(), mesh_of(tensor=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(data=-1, fsdp=-1), r"parallel\.data=-1 and parallel\.fsdp=-1: only one"),
        (dict(data=3), r"parallel\.data=3 does not fill the 2 devices"),
        (dict(data=2, tensor=2), r"data=2 x parallel\.tensor=2 does not fill"),
        (dict(tensor=0), r"parallel\.tensor=0 does not fill"),
        (dict(strategy="pmap", fsdp=2), r"pmap copies .* parallel\.fsdp=2 cuts"),
        (dict(strategy="xmap"), "strategy='xmap' is unknown; choose jit, pmap"),
    ],
)
def test_a_grid_that_devices_cannot_be_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make_mesh(**ONE | changes)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "muon"])
def test_what_an_optimiser_keeps_is_cut_as_its_parameter(name):
    config = families.get_config(f"family=gpt2,optimizer={name}")
    tx, _ = make_optimizer(num_steps=100, **config.optimizer)
    state = jax.eval_shape(lambda p: TrainState.create(p, tx), shapes_of("gpt2"))
    mesh = mesh_of(fsdp=2, tensor=2)

    shardings = compile.state_sharding(state, mesh)

    params = {
        jax.tree_util.keystr(path, simple=True, separator="/"): (x.shape, s.spec)
        for (path, x), s in zip(
            jax.tree_util.tree_flatten_with_path(state.params)[0],
            jax.tree.leaves(shardings.params),
            strict=True,
        )
    }
    followed = 0
    flat = jax.tree_util.tree_flatten_with_path(state.opt_state)[0]
    for (path, x), kept in zip(flat, jax.tree.leaves(shardings.opt_state), strict=True):
        own = jax.tree_util.keystr(path, simple=True, separator="/")
        of = [p for p, (shape, _) in params.items() if own.endswith(p) and shape == x.shape]
        if of:
            followed += 1
            assert kept.spec == params[max(of, key=len)][1], own
        else:
            assert not any(kept.spec), own
    assert followed >= (0 if name == "adafactor" else len(params))


def test_each_device_makes_and_keeps_its_part_and_the_old_state_is_given_up(random_like):
    config = families.get_config("family=gpt2,optimizer=adamw,debug")
    config.model.update(vocab_size=24, max_len=16)
    config.data.update(seq_len=16, batch_size=2)
    config.parallel.update(data=1, fsdp=2)
    config.eval.sample_tokens = 0
    parts = pretraining.make_parts(config)
    abstract = pretraining.abstract_state(parts)
    state = init_from.make_state("", parts, abstract)(config.seed)
    step, place = pretraining.make_step(parts, causal, abstract)
    rows = tiny.rows_of([[], []], 16)

    after, _ = step(state, place(rows), key=jax.random.key(0))

    for tree in (state, after):
        table = tree.params["token_embedding"]
        assert table.sharding.shard_shape(table.shape) == (24, table.shape[1] // 2)
        moment = optax.tree.get(tree.opt_state, "mu")["token_embedding"]
        assert moment.sharding == table.sharding
    assert state.params["token_embedding"].is_deleted()


def test_pmap_drops_out_what_jit_does_and_leaves_its_state_on_the_same_mesh():
    config = families.get_config("family=gpt2,optimizer=adamw,debug")
    config.model.update(vocab_size=24, max_len=16, num_layers=1, dropout=0.5)
    config.data.update(seq_len=16, batch_size=8)
    config.train.accumulate_steps = 2
    config.eval.sample_tokens = 0
    rows = tiny.rows_of([[Piece(np.arange(i, i + 16) % 24, 5)] for i in range(8)], 16)
    after = {}
    for strategy in ("jit", "pmap"):
        config.parallel.strategy = strategy
        parts = pretraining.make_parts(config)
        abstract = pretraining.abstract_state(parts)
        state = init_from.make_state("", parts, abstract)(config.seed)
        step, place = pretraining.make_step(parts, causal, abstract)
        after[strategy], _ = step(state, place(rows), key=jax.random.key(0))

        for found, wanted in zip(
            jax.tree.leaves(after[strategy]), jax.tree.leaves(abstract), strict=True
        ):
            assert found.sharding == wanted.sharding

    jit, pmap = (optax.tree.get(after[name].opt_state, "mu") for name in ("jit", "pmap"))
    for found, wanted in zip(jax.tree.leaves(pmap), jax.tree.leaves(jit), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert np.any(np.asarray(wanted) != 0)


def test_a_batch_lies_where_its_rows_and_positions_belong():
    mesh = make_mesh(**ONE | dict(sequence=2))
    batch = {"tokens_BL": np.arange(32).reshape(2, 16), "ids_B": np.arange(2)}

    placed = place_batch(batch, mesh)

    assert [s.data.shape for s in placed["tokens_BL"].addressable_shards] == [(2, 8)] * 2
    assert [s.data.shape for s in placed["ids_B"].addressable_shards] == [(2,)] * 2
    jax.tree.map(np.testing.assert_array_equal, placed, batch)


def grid_of(processes, **sizes):
    """A mesh of which only the processes of its devices are known."""
    devices = [types.SimpleNamespace(process_index=i) for i in processes]
    return types.SimpleNamespace(devices=np.array(devices, object), shape=mesh_of(**sizes).shape)


@pytest.mark.parametrize(
    ("processes", "sizes", "parts"),
    [
        ([0, 0, 1, 1], dict(data=2, fsdp=2), [(0, 2), (1, 2)]),
        ([0, 0, 1, 1], dict(data=2, tensor=2), [(0, 2), (1, 2)]),
        ([0, 0, 1, 1], dict(tensor=4), [(0, 1), (0, 1)]),
        ([0, 1, 2, 3], dict(data=2, sequence=2), [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ],
)
def test_processes_read_what_their_devices_hold(monkeypatch, processes, sizes, parts):
    found = []
    for process in range(len(parts)):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        found.append(process_shard(grid_of(processes, **sizes)))

    assert found == parts


@pytest.mark.parametrize(
    "processes",
    [
        [0, 0, 0, 0, 1, 1],  # The second could have its share, but not the first.
        [0, 1, 0, 1],
        [0, 0, 1, 1, 1, 1],
    ],
)
def test_parts_that_processes_cannot_share_evenly_are_refused_by_each(monkeypatch, processes):
    for process in (0, 1):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        with pytest.raises(UserError, match="cannot be shared evenly by 2 processes"):
            process_shard(grid_of(processes, data=len(processes)))


def test_what_is_compiled_knows_the_mesh_that_cuts_its_parameters():
    mesh = make_mesh(**(ONE | dict(data=2)))
    sizes = []

    @with_mesh
    @jax.jit
    def function(params, x):
        sizes.append(jax.sharding.get_abstract_mesh().size)
        return x

    for params in (np.zeros(2), jax.device_put(np.zeros(2), mesh_lib.replicated(mesh))):
        function({"scale": params}, 1.0)

    assert sizes[-1] == 2 and sizes[0] < 2
