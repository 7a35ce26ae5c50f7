"""Says who may ask: the key that guards a server, and the names that it is called by."""

import hmac
import ipaddress
import os
import pathlib
import stat
from collections.abc import Collection, Mapping, MutableMapping

from lm.errors import UserError
from lm.serve.refusal import Refusal

KEY_VARIABLE = "LM_API_KEY"
_LEAST_KEY = 16


def read_key(key_file: str, environ: MutableMapping[str, str]) -> bytes | None:
    """Reads the key, from a file or, without one, from the environment, which then loses it.

    Raises:
      UserError: there are both, others may read the file, or it holds no key.
    """
    given = environ.pop(KEY_VARIABLE, "")
    if key_file and given:
        raise UserError(f"key_file={key_file} and {KEY_VARIABLE} are both set; leave one out")
    where = f"key_file={key_file}" if key_file else KEY_VARIABLE
    key = _read_file(key_file) if key_file else given
    if not key and not key_file:
        return None
    if len(key) < _LEAST_KEY or not all("!" <= c <= "~" for c in key):
        raise UserError(
            f"{where} holds no key, which is one line of {_LEAST_KEY} or more characters of ASCII "
            "without a space; make one: (umask 077; openssl rand -hex 32 > FILE)"
        )
    return key.encode()


def _read_file(name: str) -> str:
    try:
        with pathlib.Path(name).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise UserError(
                    f"key_file={name} may be read by others (mode {stat.S_IMODE(mode):04o}); "
                    f"keep it to yourself: chmod 600 {name}"
                )
            return file.read(10_000).decode("ascii", errors="replace").strip()
    except OSError as error:
        raise UserError(f"key_file={name} cannot be read: {error.strerror}") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Access:
    """Lets those in who know the key, and call the server by a name that it has.

    Args:
      key: of all paths but /health; None for none.
      host: that the server listens at.
      names: that it has besides, such as one of a proxy.

    Raises:
      UserError: it listens beyond this machine without a key.
    """

    def __init__(self, key: bytes | None, host: str, names: Collection[str] = ()):
        if key is None and not is_loopback(host):
            raise UserError(
                f"host={host} is reached from beyond this machine, which takes a key; set key_file "
                f"or the variable {KEY_VARIABLE}, or host=127.0.0.1"
            )
        self._key, self._names = key, {name.lower() for name in names}
        # A page of another site may have a name of its own lead here; it cannot know the key.
        self._checks_names = is_loopback(host) or bool(names)

    def check(self, headers: Mapping[str, str], *, needs_key: bool) -> None:
        """Raises Refusal unless a request with these headers may be answered."""
        name = headers.get("host", "")
        name = name.rpartition(":")[0] if name.rpartition(":")[2].isdigit() else name
        if self._checks_names and not is_loopback(name) and name.lower() not in self._names:
            raise Refusal(
                "this server is not known by the name in the Host header; its config has "
                "allowed_hosts for that",
                status=421,
                code="unknown_host",
            )
        if self._key is None or not needs_key:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        is_known = hmac.compare_digest(given.strip().encode(), self._key)
        if scheme.lower() != "bearer" or not is_known:
            raise Refusal(
                "the key is missing or wrong; send it as Authorization: Bearer KEY",
                status=401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
