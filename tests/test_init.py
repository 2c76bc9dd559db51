"""The package: its public names, and what importing it costs."""

import ast
import importlib
import inspect
import subprocess
import sys

import reactor
from reactor.datagrams import Endpoint

ALL = "from reactor import *"


def loaded_by(statement):
    """Return the names of the modules that `statement` loads in a new interpreter."""
    loaded = []
    for program in ("import sys", f"import sys; {statement}"):  # the environment's .pth files load some, too
        done = subprocess.run(
            [sys.executable, "-c", f"{program}; print(*sys.modules)"],
            capture_output=True,
            text=True,
            check=True,
        )
        loaded.append(set(done.stdout.split()))
    return loaded[1] - loaded[0]


def test_public_names_are_there_and_sorted():
    assert reactor.__all__ == sorted(reactor.__all__)
    assert all(hasattr(reactor, name) for name in reactor.__all__)


def test_public_names_are_listed_before_their_modules_are_imported():
    program = "import reactor; assert set(reactor.__all__) <= set(dir(reactor)); print(reactor.Nothing)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.endswith("AttributeError: module 'reactor' has no attribute 'Nothing'\n")


def test_public_names_are_those_that_type_checkers_see():
    tree = ast.parse(inspect.getsource(reactor))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    seen = {name.name: node.module for node in imports for name in node.names if node.module != "importlib"}
    assert set(seen) == set(reactor.__all__)
    for name, module in seen.items():
        assert getattr(reactor, name) is getattr(importlib.import_module(module), name)


def test_import_takes_nothing_but_attrs_and_the_standard_library():
    loaded = {name.partition(".")[0] for name in loaded_by(ALL)}
    assert loaded - set(sys.stdlib_module_names) - {"reactor", "attr", "attrs"} == set()
    assert "asyncio" not in loaded


def test_import_loads_nothing_that_only_the_command_line_needs():
    loaded = loaded_by(ALL)
    assert "reactor.loop.log" in loaded
    assert loaded & {"argparse", "logging.handlers", "ssl", "ctypes", "reactor.cli", "reactor.apps"} == set()


def test_import_loads_nothing_that_only_some_programs_need():
    loaded = loaded_by(ALL)
    assert "reactor.reactor" in loaded
    assert loaded & {"concurrent.futures", "ipaddress", "logging", "queue", "random", "ssl"} == set()


def test_import_of_the_package_loads_only_what_its_first_name_needs():
    assert {name for name in loaded_by("import reactor") if name.startswith("reactor")} == {
        "reactor", "reactor.errors",
    }  # fmt: skip
    assert {"attr", "socket", "typing"} & loaded_by("import reactor") == set()
    assert {"attr", "socket", "reactor.loop"} & loaded_by("import reactor.framing") == set()
    assert {"attr", "reactor.loop"} & loaded_by("import reactor.tls") == set()


def public(cls):
    return {name for name in dir(cls) if not name.startswith("_")}


def test_classes_show_what_users_call_and_nothing_else():
    assert public(reactor.Reactor) == {
        "add_reader", "add_signal_handler", "add_writer", "adopt", "attach_host", "background",
        "bind_datagram", "call_at", "call_at_close", "call_each_tick", "call_later", "call_soon",
        "call_soon_threadsafe", "close", "connect", "connect_datagram", "connections", "detach_host", "drain",
        "endpoints", "fileno", "is_closed", "listen", "listeners",
        "next_timeout", "remove_reader", "remove_signal_handler", "remove_writer", "report", "run",
        "run_in_executor", "run_once", "stats", "stop", "submit", "time", "timers_in_fileno",
    }  # fmt: skip
    assert public(reactor.Listener) == {
        "addresses", "close", "connections", "drain", "is_closed", "pause", "replace_tls", "resume",
    }  # fmt: skip
    assert public(reactor.Connector) == {"cancel", "connection", "is_done", "next_attempt", "state"}
    assert public(reactor.Connection) == {
        "abort", "can_write_eof", "close", "get_extra_info", "get_protocol", "get_timeouts",
        "get_write_buffer_limits", "get_write_buffer_size", "hold_reading", "is_closing", "is_paused",
        "is_reading", "listener", "pause_reading", "reactor", "resume_reading", "sendfile", "set_protocol",
        "set_timeouts", "set_write_buffer_limits", "start_tls", "wants_input", "write", "write_eof",
        "writelines",
    }  # fmt: skip
    assert public(Endpoint) == {
        "abort", "address", "close", "get_extra_info", "get_protocol", "get_write_buffer_limits",
        "get_write_buffer_size", "is_closing", "join", "leave", "reactor", "send", "sendto", "set_multicast",
        "set_protocol", "set_write_buffer_limits", "state", "stats",
    }  # fmt: skip


def test_objects_show_no_more_than_their_classes():
    with reactor.Reactor() as loop:
        listener = loop.listen("127.0.0.1:0", reactor.Protocol)
        connector = loop.connect(listener.addresses[0], reactor.Protocol)
        for made in (loop, listener, connector):
            assert public(made) == public(type(made))
            assert all(
                getattr(type(made), name).__doc__
                for name in public(type(made))
                if callable(getattr(made, name))
            )
