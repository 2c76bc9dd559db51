"""A page that writes down what is posted: `page`, for `python -m reactor serve`."""

from __future__ import annotations

import os

from reactor.http import HTTP, Request, Response

__all__ = ["page"]


def _write_down(request: Request) -> Response:
    file = os.open(request.query["file"][0], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, request.body)
    os.close(file)
    return Response(200, request.body)


page = HTTP({"POST /": _write_down})
