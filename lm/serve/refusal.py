"""Refuses requests in the form that clients of OpenAI read."""

from typing import Any


class Refusal(Exception):
    """A request that is not answered, and why.

    Args:
      message: one line: the culprit, its value and the remedy. It goes to the client alone, and
        into no log, for it may quote the request.
      status: of HTTP.
      param: the field that is at fault, if one is.
      code: what programs tell it by.
      headers: of the answer.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """Returns the object that a client gets."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def invalid(param: str, message: str) -> Refusal:
    """Makes the refusal of a field's value; the message goes on from the field's name."""
    return Refusal(f"{param} {message}", param=param, code="invalid_value")
