import errno
import json
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm.errors import UserError
from lm.system import manifest
from lm.train import checkpoints as checkpoints_lib
from lm.train import disk_room
from lm.train.checkpoints import Checkpoints, restore_params
from lm.train.optimizers import average_weights
from lm.train.step import TrainState

TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


def make_state(step, tx=TX):
    params = {"layer": {"kernel": jnp.full((4, 6), float(step))}, "bias": jnp.ones(3, jnp.bfloat16)}
    return TrainState.create(params, tx).replace(step=jnp.int32(step))


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def save_all(folder, steps, losses=None, **policy):
    with Checkpoints(folder, **{"keep_last": 10} | policy) as checkpoints:
        for step in steps:
            metrics = {} if losses is None else {"eval/loss": losses[step]}
            checkpoints.save(step, make_state(step), {"num_tokens": 7 * step}, metrics)
    return checkpoints


def restore(folder, state=None, **policy):
    with Checkpoints(folder, **{"keep_last": 10} | policy) as checkpoints:
        return checkpoints.restore(abstract(make_state(0) if state is None else state))


def test_what_was_saved_comes_back(tmp_path):
    save_all(tmp_path, [3, 5])

    step, state, host = restore(tmp_path)

    assert (step, host) == (5, {"num_tokens": 35})
    jax.tree.map(np.testing.assert_array_equal, state, make_state(5))
    assert jax.tree.structure(state) == jax.tree.structure(make_state(5))


def test_a_new_folder_has_nothing_to_restore(tmp_path):
    assert restore(tmp_path / "new") is None


def data_file(path):
    """The largest file: the one that holds the arrays."""
    return max(
        (p for p in (path / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )


def flip(path):
    file = data_file(path)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(path):
    data_file(path).write_bytes(data_file(path).read_bytes()[:-1])


def into_folder(file):
    file.unlink()
    file.mkdir()


def replace(path, other):
    shutil.rmtree(path)
    shutil.copytree(path.parent / other, path)


DAMAGE = {
    "a copy of another step": (lambda path: replace(path, "3"), "it is a copy of step 3"),
    "a flipped byte": (flip, "has changed"),
    "a truncated file": (truncate, "bytes instead of"),
    "a missing file": (lambda path: data_file(path).unlink(), "is missing"),
    "a missing folder": (lambda path: shutil.rmtree(path / "state"), "is missing"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "no manifest"),
    "a folder for a file": (lambda path: into_folder(data_file(path)), "is missing"),
} | {
    f"a manifest of {text[:12]}": (
        lambda path, text=text: (path / "manifest.json").write_text(text),
        "manifest.json cannot be read",
    )
    for text in ('{"a": [1', "[]", "null", "5", "{}", '{"a": 5}', '{"a": [1, 2]}', "[" * 100_000)
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_set_aside_and_the_older_checkpoint_used(tmp_path, name, caplog):
    save_all(tmp_path, [3, 5])
    damage, reason = DAMAGE[name]
    damage(tmp_path / "5")

    step, state, _ = restore(tmp_path)

    assert step == 3
    np.testing.assert_array_equal(state.params["layer"]["kernel"], 3.0)
    assert reason in caplog.text
    assert str(tmp_path / "5") in caplog.text
    assert (tmp_path / "damaged" / "5-0").is_dir()
    assert not (tmp_path / "5").exists()


@pytest.mark.parametrize("name", DAMAGE)
def test_whoever_reads_damage_uses_the_older_checkpoint_and_changes_nothing(
    saved_twice, tmp_path, name, caplog
):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved_twice, folder)
    damage, reason = DAMAGE[name]
    damage(folder / "5")
    before = contents(folder)

    step, params, _ = restore_params(folder)

    assert step == 3
    np.testing.assert_array_equal(params["layer"]["kernel"], 3.0)
    assert f"{folder / '5'} is not used: " in caplog.text
    assert reason in caplog.text
    assert contents(folder) == before


def rewrite_host(path, change):
    host = json.loads((path / "host.json").read_text())
    (path / "host.json").write_text(json.dumps(change(host)))


def list_again(path, change):
    rewrite_host(path, change)
    manifest.write(path)


DAMAGE_OF_METRICS = {
    "a truncated file": (lambda p: (p / "host.json").write_text("{"), "bytes instead of"),
    "another digit": (lambda p: rewrite_host(p, lambda x: x | {"metrics": {"eval/loss": 8.0}}), ""),
    "no file": (lambda p: (p / "host.json").unlink(), "is missing"),
    "a copy of another step": (lambda p: replace(p, "3"), "it is a copy of step 3"),
    "a manifest cut short": (lambda p: (p / "manifest.json").write_text("{"), "cannot be read"),
} | {
    f"{text} with its checksum": (
        lambda p, text=text: list_again(p, lambda _: json.loads(text)),
        "host.json cannot be read",
    )
    for text in ("{}", "[]", "null", '{"host": 5, "metrics": {}}', '{"host": {}, "metrics": null}')
}


@pytest.mark.parametrize("name", DAMAGE_OF_METRICS)
def test_the_best_checkpoint_is_not_replaced_in_silence_where_its_metrics_are_damaged(
    tmp_path, name, caplog
):
    save_all(tmp_path, [3, 5, 7], {3: 2.0, 5: 1.0, 7: 3.0})
    assert restore_params(tmp_path, best_metric="eval/loss")[0] == 5
    assert not caplog.text
    (tmp_path / "9" / "state").mkdir(parents=True)  # One that is being written is no damage.
    damage, reason = DAMAGE_OF_METRICS[name]
    damage(tmp_path / "5")

    assert restore_params(tmp_path, best_metric="eval/loss")[0] == 3

    (message,) = caplog.messages
    assert message.startswith(f"checkpoint {tmp_path / '5'} is not used: ") and reason in message
    with Checkpoints(tmp_path, keep_last=3, best_metric="eval/loss") as checkpoints:
        assert checkpoints.restore(abstract(make_state(0)), best=True)[0] == 3
    assert (tmp_path / "damaged" / "5-0").is_dir()


def test_a_reader_says_why_nothing_is_intact_and_changes_nothing(saved_twice, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved_twice, folder)
    truncate(folder / "5")
    flip(folder / "3")
    before = contents(folder)

    with pytest.raises(UserError, match=r"no checkpoint is intact .5: .*bytes instead of .*; 3: "):
        restore_params(folder)

    assert contents(folder) == before


def test_a_reader_of_a_run_that_deletes_what_is_read_takes_the_newest_again(
    saved_twice, tmp_path, monkeypatch
):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved_twice, folder)
    read = checkpoints_lib._read_params

    def read_while_it_is_deleted(path):
        if path.name == "5":
            (path / "manifest.json").unlink()
            shutil.rmtree(path / "state")
        return read(path)

    monkeypatch.setattr(checkpoints_lib, "_read_params", read_while_it_is_deleted)

    assert restore_params(folder)[0] == 3


def test_of_steps_that_were_never_whole_one_is_kept_and_of_damaged_ones_all(tmp_path):
    save_all(tmp_path, [1, 2, 3])
    for step in (3, 2):
        truncate(tmp_path / str(step))
    for _ in range(3):
        for step in (4, 5):
            (tmp_path / str(step) / "state").mkdir(parents=True)

        assert restore(tmp_path)[0] == 1

    assert sorted(path.name for path in (tmp_path / "damaged").iterdir()) == ["2-0", "3-0", "4-0"]


@pytest.mark.parametrize("name", ["\u00b2", "\u0663", "007", "7.tmp", "-1"])
def test_a_folder_whose_name_is_no_number_is_no_step(saved_twice, tmp_path, name):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved_twice, folder)
    (folder / name).mkdir()

    assert restore_params(folder)[0] == 5
    assert (folder / name).is_dir()


@pytest.fixture(scope="module")
def saved_twice(tmp_path_factory):
    """Steps 3 and 5."""
    folder = tmp_path_factory.mktemp("saved")
    save_all(folder, [3, 5])
    return folder


def contents(folder):
    """The names of all files, and what they hold."""
    return {p: p.is_file() and p.read_bytes() for p in folder.rglob("*")}


def test_a_link_to_nothing_is_not_taken_for_a_run_without_checkpoints(tmp_path):
    (tmp_path / "checkpoints").symlink_to(tmp_path / "not mounted")

    with pytest.raises(UserError, match="checkpoints is a link to nothing"):
        restore(tmp_path / "checkpoints")
    with pytest.raises(UserError, match="checkpoints is a link to nothing"):
        restore_params(tmp_path / "checkpoints")


def test_when_nothing_is_intact_the_run_does_not_start_anew(tmp_path):
    save_all(tmp_path, [3])
    flip(tmp_path / "3")

    with pytest.raises(UserError, match="no checkpoint is intact"):
        restore(tmp_path)


def test_the_last_the_nth_and_the_best_are_kept(tmp_path):
    losses = {1: 5.0, 2: 1.0, 3: 4.0, 4: 3.0, 5: 2.0, 6: 2.5, 7: 2.6}

    kept = save_all(
        tmp_path, losses, losses, keep_last=2, keep_every=3, best_metric="eval/loss"
    ).steps()

    assert kept == [2, 3, 6, 7]


def test_the_state_may_be_donated_right_after_the_save(tmp_path):
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    state = make_state(4)
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save(4, state, {}, {})
        jax.block_until_ready(overwrite(state))

    _, restored, _ = restore(tmp_path)

    jax.tree.map(np.testing.assert_array_equal, restored, make_state(4))


_WRITE = "lm.system.atomic_files.write"


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "faults",
    [
        {_WRITE: full},
        {_WRITE: full, "orbax.checkpoint.AsyncCheckpointer.close": full},
        {"shutil.disk_usage": lambda _: types.SimpleNamespace(free=0)},
    ],
    ids=["while it is written", "and when Orbax ends", "beforehand"],
)
def test_a_full_disk_ends_the_run_and_leaves_the_older_checkpoint(tmp_path, monkeypatch, faults):
    save_all(tmp_path, [3], keep_last=1)

    for name, fault in faults.items():
        monkeypatch.setattr(name, fault)
    with pytest.raises(UserError, match="disk is full: checkpoint 5"):
        save_all(tmp_path, [5], keep_last=1)
    monkeypatch.undo()

    assert restore(tmp_path)[0] == 3


def test_too_little_room_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"need 1,000,000.00 TB; .*keep_last"):
        disk_room.check(tmp_path / "a" / "b", 10**18)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "policy, num_kept",
    [
        ({"keep_last": 1}, 2),
        ({"keep_last": 2}, 3),
        ({"keep_last": 2, "best_metric": "eval/loss"}, 4),
        ({"keep_last": 1, "keep_every": 20}, 6),
        ({"keep_last": 1, "keep_every": 15}, 5),
        ({"keep_last": 50}, 10),
    ],
)
def test_room_is_asked_for_all_that_is_kept_and_not_there_yet(tmp_path, policy, num_kept):
    state = {"a": jax.ShapeDtypeStruct((5, 2), jnp.float32)}
    with Checkpoints(tmp_path, **policy) as checkpoints:
        room = lambda: checkpoints.bytes_needed(state, num_steps=98, every_steps=10)

        assert room() == 40 * num_kept
        (tmp_path / "10").mkdir()
        (tmp_path / "10" / "manifest.json").touch()
        assert room() == 40 * (num_kept - 1)
        assert checkpoints.bytes_needed(state, num_steps=98, every_steps=0) == 40


def test_other_failures_of_a_save_are_said_with_their_remedy(tmp_path):
    error = disk_room.save_error(
        tmp_path, 5, ValueError("Failed to write 9 bytes: File too large [27]")
    )

    assert isinstance(error, UserError)
    assert f"checkpoint 5 could not be saved in {tmp_path}" in str(error)
    assert "ulimit -f" in str(error)
    assert disk_room.save_error(tmp_path, 5, bug := ValueError("no such key")) is bug


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p | {"bias": jnp.ones(3)},
        lambda p: p | {"bias": jnp.ones(4, jnp.bfloat16)},
        lambda p: p | {"more": jnp.ones(1)},
    ],
    ids=["dtype", "shape", "name"],
)
def test_a_state_of_another_kind_is_refused_by_name(tmp_path, change):
    save_all(tmp_path, [3])
    other = TrainState.create(change(make_state(0).params), TX)

    with pytest.raises(UserError, match=r"params\.(bias|more)|opt_state.*(bias|more)"):
        restore(tmp_path, other)


def test_a_checkpoint_moves_to_another_mesh(tmp_path):
    save_all(tmp_path, [3])
    mesh = jax.make_mesh((2,), ("x",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split if x.ndim == 2 else whole),
        make_state(0),
    )
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        _, state, _ = checkpoints.restore(target)

    jax.tree.map(np.testing.assert_array_equal, state, make_state(3))
    assert state.params["layer"]["kernel"].sharding == split


@pytest.mark.parametrize("averaged", [False, True])
def test_parameters_alone_are_the_averaged_ones_where_there_are_any(tmp_path, averaged):
    tx = optax.chain(TX, average_weights(0.9)) if averaged else TX
    state = make_state(2, tx)
    if averaged:
        state.opt_state[1].average["layer"]["kernel"] = jnp.full((4, 6), 9.0)
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save(2, state, {}, {})

    step, params, _ = restore_params(tmp_path)

    assert step == 2
    assert isinstance(params["layer"]["kernel"], np.ndarray)  # On no device, which may be small.
    np.testing.assert_array_equal(params["layer"]["kernel"], 9.0 if averaged else 2.0)
    host = json.loads((tmp_path / "2" / "host.json").read_text())
    assert host == {"step": 2, "host": {}, "metrics": {}}


def test_a_loop_that_ended_before_what_reports_to_it_is_not_spoken_of(tmp_path, monkeypatch):
    passed_on = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: passed_on.append(unraisable))
    with Checkpoints(tmp_path, keep_last=1):
        for text in ("Event loop is closed", "another"):
            sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(text)))

    assert [str(one.exc_value) for one in passed_on] == ["another"]
