"""Gives the page that a browser shows of a server: one file, which asks for nothing elsewhere."""

import base64
import functools
import hashlib
import pathlib
import re

from starlette.responses import HTMLResponse, Response

_FILE = pathlib.Path(__file__).with_name("page.html")


@functools.cache
def response() -> Response:
    """Returns the page, with a policy that lets nothing run, load or be asked but its own."""
    text = _FILE.read_text()
    (script,) = re.findall("<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return HTMLResponse(text, headers=headers)
