"""Files as answers: conditional requests and ranges (RFC 9110, 13 and 14), and a directory of them."""

from __future__ import annotations

import errno
import mimetypes
import os
import re
import stat
import time
from email.utils import formatdate, parsedate_to_datetime
from typing import IO

import attrs

from reactor.http.syntax import Headers, HTTPError

__all__ = ["FilePart", "open_below", "open_file", "part_of", "type_of"]

# What says nothing about the file that is asked for.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO})

_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")


@attrs.frozen
class FilePart:
    """The answer that a file gives to a request: a status, and the bytes of it that are sent.

    fields: pairs of the names and values that say so.
    """

    status: int
    offset: int
    count: int
    fields: tuple[tuple[str, str], ...]


def type_of(name: str) -> str:
    """Return the content type of a file by its name."""
    kind, coding = mimetypes.guess_type(name, strict=False)
    if coding is not None:
        return "application/gzip" if coding == "gzip" else "application/octet-stream"
    if kind is None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def open_file(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a regular file. Raises HTTPError with 404 for anything else, OSError when resources run out."""
    try:
        return _regular(os.open(path, os.O_RDONLY | os.O_NONBLOCK))  # a pipe has no writer to wait for
    except OSError as exc:
        if exc.errno in _EXHAUSTED:
            raise
        raise HTTPError(404) from exc


def open_below(root: str | os.PathLike[str], path: str) -> IO[bytes]:
    """Open the file `path` below the directory `root`. Raises HTTPError with 404, OSError as `open_file`.

    No name that is empty or begins with a dot is opened, and no symbolic link is followed, not even one that
    is created meanwhile.
    """
    *folders, name = path.split("/")
    if any(not each or each[0] == "." or "\0" in each for each in (*folders, name)):
        raise HTTPError(404)
    try:
        at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for folder in folders:
                above, at = at, os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
                os.close(above)
            return _regular(os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=at))
        finally:
            os.close(at)
    except OSError as exc:
        if exc.errno in _EXHAUSTED:
            raise
        raise HTTPError(404) from exc


def _regular(fd: int) -> IO[bytes]:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise HTTPError(404)
    return os.fdopen(fd, "rb", buffering=0)


def part_of(file: IO[bytes], method: str, headers: Headers) -> FilePart:
    """Return which part of `file` answers a request, and how. Raises HTTPError: 412 or 416."""
    status = os.fstat(file.fileno())
    size, modified = status.st_size, int(min(status.st_mtime, time.time()))
    tag = f'"{status.st_mtime_ns:x}-{size:x}-{status.st_ino:x}"'
    fields: tuple[tuple[str, str], ...] = (
        ("ETag", tag),
        ("Last-Modified", formatdate(modified, usegmt=True)),
    )
    _check_preconditions(headers, tag, modified)
    if _is_known(headers, tag, modified, method):
        return FilePart(304, 0, 0, fields)
    fields += (("Accept-Ranges", "bytes"),)
    asked = _asked(headers, tag, modified, size) if method == "GET" else None
    if asked is None:
        return FilePart(200, 0, size, fields)
    first, last = asked
    return FilePart(
        206, first, last - first + 1, (*fields, ("Content-Range", f"bytes {first}-{last}/{size}"))
    )


def _check_preconditions(headers: Headers, tag: str, modified: int) -> None:
    if (tags := headers.get("if-match")) is not None:
        if tags != "*" and tag not in _tags(tags):
            raise HTTPError(412)
    elif (since := _date(headers.get("if-unmodified-since"))) is not None and modified > since:
        raise HTTPError(412)


def _is_known(headers: Headers, tag: str, modified: int, method: str) -> bool:
    """Return whether the client has the file as it is. Raises HTTPError: 412, if it does not read."""
    is_read = method in {"GET", "HEAD"}
    if (tags := headers.get("if-none-match")) is not None:
        is_known = tags == "*" or tag in {each.removeprefix("W/") for each in _tags(tags)}
        if is_known and not is_read:
            raise HTTPError(412)
        return is_known
    since = _date(headers.get("if-modified-since")) if is_read else None
    return since is not None and modified <= since


def _asked(headers: Headers, tag: str, modified: int, size: int) -> tuple[int, int] | None:
    """Return the first and the last byte of the range that is asked for; None for the whole file.

    Several ranges, and what is none, are answered with the whole file, as RFC 9110, 14.2, allows.
    """
    asked = _RANGE.fullmatch(headers.get("range", ""))
    condition = headers.get("if-range")
    if (
        asked is None
        or asked[0] == "bytes=-"
        or (condition not in {None, tag} and _date(condition) != modified)
    ):
        return None
    first, last = asked[1], asked[2]
    if len(first) > 20 or len(last) > 20 or (first and last and int(first) > int(last)):
        return None
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last), size - 1) if first and last else size - 1
    if start > end:
        raise HTTPError(416, headers=(("Content-Range", f"bytes */{size}"),))
    return start, end


def _tags(value: str) -> list[str]:
    return [each.strip() for each in value.split(",")]


def _date(value: str | None) -> float | None:
    try:
        return None if value is None else parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
