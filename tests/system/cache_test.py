"""Where prepared data and compiled programs are kept, and what is said where they cannot be."""

import errno
import os
import pwd

import jax
import pytest

from lm.errors import UserError
from lm.system import cache
from tests.corpus.preparation_test import corpus, prepare


@pytest.fixture(autouse=True)
def settings_of_jax():
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_no_home_is_a_line_that_names_what_to_set(monkeypatch):
    """As of a user of a container whom its passwd does not know."""
    monkeypatch.delenv("LM_CACHE")
    monkeypatch.delenv("HOME")

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)

    with pytest.raises(UserError, match=r"LM_CACHE is not set .*set it, or HOME, to a folder"):
        cache.cache_folder("data")


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    """Has nothing be made or written below a folder, as root cannot forbid itself by modes."""

    def forbid(folder):
        mkdir, opened = os.mkdir, os.open

        def refuse(path):
            if str(path).startswith(str(folder)) and not os.path.exists(path):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        monkeypatch.setattr(os, "mkdir", lambda p, *a, **k: (refuse(p), mkdir(p, *a, **k))[1])
        monkeypatch.setattr(os, "open", lambda p, *a, **k: (refuse(p), opened(p, *a, **k))[1])
        monkeypatch.setattr(os, "access", lambda path, mode: mode & os.W_OK == 0)

    return forbid


def test_a_cache_that_cannot_be_made_is_a_line_with_the_remedy(tmp_path, monkeypatch, read_only):
    monkeypatch.setenv("LM_CACHE", f"{tmp_path}/cache")
    read_only(tmp_path)

    with pytest.raises(UserError, match=r"cache/data cannot be made .*Read-only.*set LM_CACHE"):
        cache.cache_folder("data")


def test_a_cache_that_can_only_be_read_is_read(tmp_path, monkeypatch, read_only, recwarn):
    monkeypatch.setenv("LM_CACHE", f"{tmp_path}/cache")
    settings = corpus(tmp_path) | {"cache_dir": cache.cache_folder("data")}
    made = prepare(**settings)
    cache.cache_folder("xla")
    before = sorted(tmp_path.rglob("*"))
    read_only(tmp_path)

    cache.keep_compiled_programs()
    found = prepare(**settings | {"cache_dir": cache.cache_folder("data")})
    jax.jit(lambda x: x * 3 + len(before))(1.0)

    assert (found.hash, found.splits) == (made.hash, made.splits)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == float("inf")
    assert sorted(tmp_path.rglob("*")) == before and not recwarn.list
