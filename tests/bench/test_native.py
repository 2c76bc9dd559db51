"""Programs in C: compiled once, and not at all without a compiler."""

import shutil
import subprocess

from bench.harness.native import compiled

fresh = compiled.__wrapped__  # without what this process remembers


def test_program_is_compiled_once_and_kept(tmp_path, monkeypatch):
    assert shutil.which("cc"), "apt-get install build-essential"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = fresh("epoll")
    made = program.stat()
    assert fresh("epoll") == program
    assert program.stat().st_ino == made.st_ino
    assert list(program.parent.iterdir()) == [program]


def test_without_a_compiler_there_is_no_program(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert fresh("load") is None


def test_without_openssl_the_load_is_compiled_without_tls(tmp_path, monkeypatch):
    compiler = shutil.which("cc")
    assert compiler, "apt-get install build-essential"
    fake = tmp_path / "cc"
    fake.write_text(f'#!/bin/sh\ncase "$*" in *-lssl*) exit 1;; esac\nexec {compiler} "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert fresh("load", tls=True) is None
    program = fresh("load")
    words = ["1", "1", "1", "1", "1", "1", "echo", "1.3"]
    done = subprocess.run([program, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "compiled without OpenSSL\n")
