"""Errors of the HTTP library that huggingface_hub uses: httpx under its versions 1, httpx2 from 2 on.

Both libraries have these names. transformers 5.16 and 5.17 need huggingface_hub 1, later versions need 2.
"""

import importlib
from typing import TYPE_CHECKING

from huggingface_hub.errors import HfHubHTTPError

__all__ = [
    "ConnectError",
    "ConnectTimeout",
    "HTTPError",
    "InvalidURL",
    "Response",
    "SyncByteStream",
    "TransportError",
    "UnsupportedProtocol",
]

if TYPE_CHECKING:
    from httpx2 import (
        ConnectError,
        ConnectTimeout,
        HTTPError,
        InvalidURL,
        Response,
        SyncByteStream,
        TransportError,
        UnsupportedProtocol,
    )
else:
    _library = importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])
    ConnectError = _library.ConnectError
    ConnectTimeout = _library.ConnectTimeout
    HTTPError = _library.HTTPError
    InvalidURL = _library.InvalidURL
    Response = _library.Response
    SyncByteStream = _library.SyncByteStream
    TransportError = _library.TransportError
    UnsupportedProtocol = _library.UnsupportedProtocol
