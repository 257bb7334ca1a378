"""How an HTTP connection is made: limits, headers and certificates, the same for calls that wait and for asyncio."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from client.connection import Connection
from client.errors import BadResponse, InvalidRequest
from client.http_codec import HttpCall
from client.mapping import not_triton
from client.triton import HTTP_TOKEN_HEADER

# A config with 1000 labels is 40 KB, a reply 4 KB an image: what is larger is no answer of ours.
MAX_REPLY_BYTES = 16 * 1024 * 1024
READ_BYTES = 64 * 1024


def headers_of(connection: Connection) -> dict[str, str]:
    """What is sent with every request: the user's headers, the token, and that the reply is wanted uncompressed."""
    token = {} if connection.token is None else {HTTP_TOKEN_HEADER: connection.token}
    return {**connection.headers, **token, "Accept-Encoding": "identity", "User-Agent": "inception-client"}


def request_headers(common: Mapping[str, str], call: HttpCall) -> dict[str, str]:
    """The headers of one request, the length of its body among them, so that it is not sent in chunks."""
    headers = {**common, **call.headers}
    if call.method == "POST":
        headers["Content-Length"] = str(sum(len(part) for part in call.body))
    return headers


def too_large(address: str) -> BadResponse:
    """The error for a reply that goes on beyond `MAX_REPLY_BYTES`."""
    return not_triton(f"a reply of more than {MAX_REPLY_BYTES} bytes", address)


def ssl_context_of(connection: Connection) -> ssl.SSLContext | None:
    """The certificates of an encrypted connection, None for a plain one; `InvalidRequest` for a file not readable."""
    if not connection.is_encrypted:
        return None
    tls = connection.tls
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except OSError as error:
        _refuse(tls.ca_file, "certificates", error)
    if tls.certificate_file is not None and tls.key_file is not None:
        for path in (tls.certificate_file, tls.key_file):
            try:
                Path(path).read_bytes()
            except OSError as error:
                _refuse(path, "a certificate or key", error)
        try:
            # A key that needs a password would be asked for at the terminal; with this it is refused.
            context.load_cert_chain(tls.certificate_file, tls.key_file, password=lambda: "")
        except OSError as error:
            _refuse(f"{tls.certificate_file} with {tls.key_file}", "a certificate and its key", error)
    return context


def _refuse(path: Path | str | None, what: str, error: OSError) -> NoReturn:
    reason = error.strerror or str(error) or type(error).__name__
    raise InvalidRequest(f"{path} cannot be used: {reason}; expected a PEM file with {what}") from error
