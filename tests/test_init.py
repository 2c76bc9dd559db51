"""The package: its public names, and what importing it costs."""

import subprocess
import sys

import reactor


def test_public_names_are_there_and_sorted():
    assert reactor.__all__ == sorted(reactor.__all__)
    assert all(hasattr(reactor, name) for name in reactor.__all__)


def test_import_takes_nothing_but_attrs_and_the_standard_library():
    program = "import sys, reactor; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    foreign = set(done.stdout.split()) - set(sys.stdlib_module_names) - {"reactor", "attr", "attrs"}
    # What the environment itself loads at start, by .pth files, is there without the import as well.
    bare = subprocess.run(
        [sys.executable, "-c", program.replace(", reactor", "")], capture_output=True, text=True, check=True
    )
    assert foreign - set(bare.stdout.split()) == set()
    assert "asyncio" not in done.stdout.split()


def test_import_loads_nothing_that_only_the_command_line_needs():
    program = "import sys, reactor; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "reactor.loop.log" in loaded
    assert loaded & {"argparse", "logging.handlers", "ssl", "ctypes", "reactor.cli", "reactor.apps"} == set()


def public(cls):
    return {name for name in dir(cls) if not name.startswith("_")}


def test_classes_show_what_users_call_and_nothing_else():
    assert public(reactor.Reactor) == {
        "add_reader", "add_signal_handler", "add_writer", "adopt", "attach_host", "background", "call_at",
        "call_at_close", "call_each_tick", "call_later", "call_soon", "call_soon_threadsafe", "close",
        "connect", "connections", "detach_host", "drain", "fileno", "is_closed", "listen", "listeners",
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
