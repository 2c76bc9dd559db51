"""Programs in C, compiled when they are first needed and kept in the user's cache directory."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

__all__ = ["compiled"]

_SOURCES = Path(__file__).parent
_LIBRARIES: tuple[list[str], list[str]] = (
    ["-DTLS", "-lssl", "-lcrypto"],
    [],
)  # with OpenSSL where its headers are installed


@functools.cache
def compiled(name: str, *, tls: bool = False) -> Path | None:
    """Return the path of the program made of `NAME.c`, or None where it can't be made.

    That is without a C compiler (`cc`), and with `tls` also without the headers of OpenSSL.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    source = _SOURCES / f"{name}.c"
    return _compile(compiler, source, _LIBRARIES[0]) or (
        None if tls else _compile(compiler, source, _LIBRARIES[1])
    )


def _compile(compiler: str, source: Path, libraries: list[str]) -> Path | None:
    words = [compiler, "-O2", str(source), *libraries]
    parts = (source.read_bytes(), (_SOURCES / "common.h").read_bytes(), repr(words).encode())
    digest = hashlib.sha256(b"".join(parts)).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "selectors-reactor-bench"
    program = folder / f"{source.stem}-{digest}"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as made:  # another process may compile it too
            output = Path(made) / source.stem
            if subprocess.run([*words, "-o", str(output)], capture_output=True, check=False).returncode:
                return None
            output.replace(program)
    return program
