"""The supervisor: real processes and real signals; nobody who connects is refused, reset or unanswered."""

import re
import signal
import subprocess
import sys
from contextlib import ExitStack

import pytest

from reactor import SupervisorError
from reactor.deploy import Supervisor
from tests.deploy.programs import (
    APP,
    GATE,
    ROOT,
    Load,
    ask,
    ask_anew,
    deployed,
    held,
    serving,
    until,
    write_app,
)
from tests.helpers import DEADLINE, client_of
from tests.status.clients import get

BROKEN = "raise RuntimeError('half a deploy')\n"


@pytest.fixture
def folder(tmp_path):
    write_app(tmp_path)
    return tmp_path


def test_connections_are_spread_over_the_workers(folder):
    with serving(folder, workers=2) as deployment:
        pids = set(deployment.workers(2).values())
        address = deployment.started(2)
        seen = set()
        until(lambda: seen.add(ask_anew(address)[0]) or seen == pids)
        assert deployment.pid not in pids
        assert deployment.stop() == 0


def test_unix_socket_is_shared_and_its_file_removed(folder):
    path = folder / "socket"
    with serving(folder, workers=2, listen=f"unix:{path}") as deployment:
        pids = set(deployment.workers(2).values())
        address = deployment.started(2)
        assert ask_anew(address)[0] in pids
        deployment.signal(signal.SIGUSR2)
        deployment.follow()
        assert path.exists()
        until(lambda: ask_anew(address)[0] not in pids)
        assert deployment.stop() == 0
        assert not path.exists()


def test_killed_worker_takes_only_its_own_connections(folder):
    with serving(folder, workers=2) as deployment:
        pids = deployment.workers(2)
        address = deployment.started(2)
        with ExitStack() as opened:
            clients = {}

            def connect():
                client = opened.enter_context(client_of(address))
                clients.setdefault(ask(client)[0], client)
                return len(clients) == 2

            until(connect)
            deployment.signal(signal.SIGKILL, pids[0])
            assert clients[pids[0]].recv(1) == b""
            deployment.wait_for(rf"worker 0 \(process {pids[0]}\) was killed by SIGKILL: another is started")
            (new,) = deployment.workers(1).values()
            assert ask(clients[pids[1]]) == (pids[1], b"1")
            until(lambda: ask_anew(address)[0] == new)
        assert deployment.stop() == 0


def test_what_waits_for_a_killed_worker_is_served_by_the_next(folder):
    with serving(folder, workers=1) as deployment:
        (pid,) = deployment.workers(1).values()
        address = deployment.started(1)
        deployment.signal(signal.SIGSTOP, pid)
        with client_of(address) as client:
            client.sendall(b"?")
            deployment.signal(signal.SIGKILL, pid)
            (new,) = deployment.workers(1).values()
            assert client.recv(100) == b"%d 1 ?" % new
        assert deployment.stop() == 0


def test_sighup_reads_the_code_anew_and_ends_the_old_when_their_clients_are_done(folder):
    with serving(folder, workers=2) as deployment:
        old = set(deployment.workers(2).values())
        address = deployment.started(2)
        with client_of(address) as silent:  # accepted, and has not sent anything
            write_app(folder, b"2")
            deployment.signal(signal.SIGHUP)
            new = set(deployment.workers(2).values())
            deployment.wait_for("all workers are restarted")
            assert new.isdisjoint(old)
            until(lambda: ask_anew(address)[1] == b"2")
            assert ask_anew(address)[0] in new
            pid, version = ask(silent)
            assert (pid in old, version) == (True, b"1")
        deployment.wait_for_all(2, r"has drained: it exited with status 0")
        assert deployment.stop() == 0


def test_broken_code_leaves_the_old_workers_and_the_next_sighup_mends_it(folder):
    with serving(folder, workers=2) as deployment:
        old = set(deployment.workers(2).values())
        address = deployment.started(2)
        (folder / "app.py").write_text(BROKEN)
        deployment.signal(signal.SIGHUP)
        deployment.wait_for(r"argument APP: cannot import 'app:Who': RuntimeError: half a deploy")
        deployment.wait_for(r"status 2 before it was ready: the restart is abandoned, the old workers go on")
        assert ask_anew(address)[0] in old
        write_app(folder, b"2")
        deployment.signal(signal.SIGHUP)
        deployment.wait_for("all workers are restarted")
        until(lambda: ask_anew(address)[1] == b"2")
        assert deployment.stop() == 0


def test_sigusr2_replaces_the_supervisor(folder):
    with serving(folder, workers=2) as deployment:
        first = deployment.pid
        old = set(deployment.workers(2).values())
        address = deployment.started(2)
        with client_of(address) as silent:
            write_app(folder, b"2")
            deployment.signal(signal.SIGUSR2)
            deployment.follow()
            assert deployment.pid != first
            until(lambda: ask_anew(address)[1] == b"2")
            pid, version = ask(silent)
            assert (pid in old, version) == (True, b"1")
        assert deployment.process.wait(DEADLINE) == 0
        deployment.signal(signal.SIGUSR2)
        deployment.follow()
        until(lambda: ask_anew(address)[1] == b"2")
        assert deployment.stop() == 0


def test_successor_that_does_not_start_changes_nothing(folder):
    with serving(folder, workers=2) as deployment:
        old = set(deployment.workers(2).values())
        address = deployment.started(2)
        (folder / "app.py").write_text(BROKEN)
        deployment.signal(signal.SIGUSR2)
        deployment.wait_for(
            r"exited with status 2 before it could replace the supervisor: nothing has changed"
        )
        assert ask_anew(address)[0] in old
        write_app(folder, b"2")
        deployment.signal(signal.SIGUSR2)
        deployment.follow()
        until(lambda: ask_anew(address)[1] == b"2")
        assert deployment.stop() == 0


def test_second_sigusr2_is_refused_while_the_first_is_under_way(folder):
    write_app(folder, app=GATE + APP)
    with serving(folder, workers=1) as deployment:
        address = deployment.started(1)
        with held(folder):
            deployment.signal(signal.SIGUSR2)
            successor = int(deployment.wait_for(r"process (\d+) is to replace the supervisor")[1])
            deployment.signal(signal.SIGUSR2)
            deployment.wait_for("SIGUSR2 is refused: .* another one is being started")
            ask_anew(address)
        deployment.follow()
        assert deployment.pid == successor
        assert deployment.stop() == 0


def test_sigterm_while_a_successor_starts_ends_both(folder):
    write_app(folder, app=GATE + APP)
    with serving(folder, workers=1) as deployment:
        deployment.started(1)
        with held(folder):
            deployment.signal(signal.SIGUSR2)
            deployment.wait_for(r"is to replace the supervisor")
            deployment.wait_for("waiting")
            deployment.signal(signal.SIGTERM)
            deployment.wait_for(r"worker 0 .* has drained")
        assert deployment.ended() == 0


def test_workers_are_added_and_removed(folder):
    with serving(folder, workers=1) as deployment:
        first = deployment.workers(1)[0]
        address = deployment.started(1)
        deployment.signal(signal.SIGTTOU)
        deployment.wait_for("SIGTTOU is ignored: .* 1 worker")
        deployment.signal(signal.SIGTTIN)
        second = deployment.workers(1)[1]
        seen = set()
        until(lambda: seen.add(ask_anew(address)[0]) or seen == {first, second})
        with Load(address) as load:
            deployment.signal(signal.SIGTTOU)
            deployment.wait_for(rf"worker 1 \(process {second}\) has drained: it exited with status 0")
            assert {ask_anew(address)[0] for _ in range(20)} == {first}
            deployment.signal(signal.SIGTTIN)
            third = deployment.workers(1)[1]
            until(lambda: ask_anew(address)[0] == third)
        assert load.failures == []
        assert deployment.stop() == 0


def test_connection_in_the_queue_of_a_removed_worker_is_served(folder):
    with serving(folder, workers=2) as deployment:
        second = deployment.workers(2)[1]
        address = deployment.started(2)
        deployment.signal(signal.SIGSTOP, second)
        with ExitStack() as opened:
            clients = [opened.enter_context(client_of(address)) for _ in range(20)]
            deployment.signal(signal.SIGTTOU)
            deployment.wait_for("1 worker from now on")
            deployment.signal(signal.SIGCONT, second)
            seen = [ask(client)[0] for client in clients]
            assert second in seen
        deployment.wait_for(r"worker 1 .* has drained: it exited with status 0")
        assert deployment.stop() == 0


def test_load_through_restarts_and_replacements(folder):
    with serving(folder, workers=2) as deployment:
        address = deployment.started(2)
        with Load(address) as load:
            for _ in range(3):
                deployment.signal(signal.SIGHUP)
                deployment.wait_for("all workers are restarted")
            for _ in range(2):
                deployment.signal(signal.SIGUSR2)
                deployment.follow()
        assert load.failures == []
        assert load.answers > 20
        assert deployment.stop() == 0


def test_sigterm_drains_and_a_second_one_ends_at_once(folder):
    with serving(folder, workers=2) as deployment:
        address = deployment.started(2)
        with client_of(address) as client:
            deployment.signal(signal.SIGTERM)
            deployment.wait_for("draining the workers, for 5 s at most")
            ask(client)
            assert client.recv(1) == b""
        assert deployment.ended() == 0
    with serving(folder, "--drain-timeout", "60", workers=2) as deployment:
        address = deployment.started(2)
        with client_of(address) as client:
            deployment.signal(signal.SIGTERM)
            deployment.wait_for("draining the workers")
            deployment.signal(signal.SIGTERM)
            assert deployment.ended() == 1
            assert deployment.lines[-1] == "python -m reactor: stopped at once by a second signal"
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_worker_that_hangs_is_killed_at_the_end_of_its_drain(folder):
    write_app(
        folder,
        app=APP.replace("self.connection.write", "import time; time.sleep(1000)\n        _ = (lambda x: x)"),
    )
    with serving(folder, "--drain-timeout", "1", workers=1) as deployment:
        address = deployment.started(1)
        with client_of(address) as client:
            client.sendall(b"?")
            deployment.signal(signal.SIGHUP)
            deployment.wait_for("all workers are restarted")
            deployment.wait_for("has drained: it was killed by SIG(ALRM|KILL)")
        assert deployment.stop() == 0


def test_workers_end_when_their_supervisor_is_killed(folder):
    with serving(folder, workers=2) as deployment:
        address = deployment.started(2)
        with client_of(address) as client:
            deployment.signal(signal.SIGKILL)
            deployment.wait_for("the supervisor has gone: draining")
            ask(client)
            assert client.recv(1) == b""
        assert deployment.ended() == -signal.SIGKILL


def test_program_that_does_not_start_is_one_line_and_its_status(folder):
    (folder / "app.py").write_text(BROKEN)
    with serving(folder, workers=3) as deployment:
        assert deployment.ended() == 2
        said = [line for line in deployment.lines if "INFO" not in line]
        assert said == [
            (
                "python -m reactor serve: argument APP: cannot import 'app:Who': RuntimeError: half a deploy "
                f"({folder}/app.py, line 1) (try python -m reactor serve --help)"
            )
        ]


def test_address_that_another_deployment_has_is_refused(folder):
    with serving(folder, workers=2) as deployment:
        address = deployment.started(2)
        with serving(folder, workers=2, listen=address) as second:
            assert second.ended() == 1
            assert [line for line in second.lines if "INFO" not in line] == [
                (
                    f"python -m reactor: cannot listen on {address}: Address already in use: "
                    "stop what listens there, or choose another"
                )
            ]
        ask_anew(address)
        assert deployment.stop() == 0


def test_worker_that_can_not_be_restarted_is_tried_again_within_a_bound(folder):
    program = (
        "import runpy, sys, reactor.deploy.supervisor as supervisor\n"
        "supervisor._LAST_PAUSE = supervisor._FIRST_PAUSE = 0.01\n"
        "supervisor._MOST_FAILURES = 3\n"
        "sys.argv[0] = 'reactor'\n"
        "runpy.run_module('reactor', run_name='__main__')\n"
    )
    words = ["serve", "app:Who", "--workers", "1", "--listen", "127.0.0.1:0"]
    with deployed(["-c", program, *words], folder) as deployment:
        (pid,) = deployment.workers(1).values()
        deployment.started(1)
        (folder / "app.py").write_text(BROKEN)
        deployment.signal(signal.SIGKILL, pid)
        deployment.wait_for("trying again in 0.01 s")
        assert deployment.ended() == 2
        assert len([line for line in deployment.lines if "half a deploy" in line]) == 3


def test_crash_of_a_worker_again_and_again_is_no_busy_loop_and_no_end(folder):
    write_app(
        folder, app=APP.replace("self.connection.write", "os.kill(os.getpid(), 9)\n        _ = (lambda x: x)")
    )
    with serving(folder, workers=1) as deployment:
        address = deployment.started(1)
        for _ in range(3):
            with client_of(address) as client:
                client.sendall(b"?")
                assert client.recv(1) == b""
            deployment.wait_for("was killed by SIGKILL: another is started")
            deployment.workers(1)
        assert deployment.stop() == 0


def test_a_second_worker_without_a_backplane_is_refused_where_it_would_have_rooms_of_its_own(folder):
    with serving(folder, app="chat", workers=1) as deployment:
        deployment.started(1)
        deployment.signal(signal.SIGTTIN)
        deployment.wait_for("SIGTTIN is ignored: max_workers is 1")
        assert deployment.stop() == 0


def test_program_of_ones_own(tmp_path):
    (tmp_path / "serve.py").write_text(
        "import logging, os\n"
        "from reactor import Protocol\n"
        "from reactor.apps.echo import Echo\n"
        "from reactor.deploy import Supervisor\n"
        "logging.basicConfig(level='INFO')\n"
        "def setup(reactor):\n"
        "    for _ in range(2):\n"
        "        reactor.listen('localhost:0', Echo)\n"
        "Supervisor(setup, workers=2, drain_timeout=3).run()\n"
        "logging.info('only once')\n"
    )
    with deployed(["serve.py"], tmp_path) as deployment:
        addresses = {deployment.started(2), deployment.wait_for(r"listening on (\S+)")[1]}
        assert len(addresses) == 2
        for address in addresses:
            with client_of(address.replace("[::1]", "::1")) as client:
                client.sendall(b"hello")
                assert client.recv(10) == b"hello"
        assert deployment.stop() == 0
        assert len([line for line in deployment.lines if "only once" in line]) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"workers": 0}, ValueError, "workers must be 1 or more"),
        ({"workers": "2"}, TypeError, "workers"),
        ({"workers": 2, "max_workers": 1}, ValueError, "max_workers must be 2 or more, as workers is, not 1"),
        ({"drain_timeout": float("inf")}, ValueError, "finite"),
        ({"drain_timeout": -1}, ValueError, "drain_timeout"),
    ],
)
def test_arguments_that_can_not_be_meant(options, error, message):
    with pytest.raises(error, match=message):
        Supervisor(lambda reactor: None, **options)


def test_setup_must_be_callable():
    with pytest.raises(TypeError, match="setup"):
        Supervisor(None)


def test_supervisor_error_has_the_status_of_the_worker():
    assert SupervisorError("why").status is None
    assert SupervisorError("why", 2).status == 2


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--status", "127.0.0.1:0")])
def test_idle_deployment_makes_no_system_call(folder, words):
    with serving(folder, *words, workers=2) as deployment:
        status = deployment.wait_for(r"status page: http://(\S+)/")[1] if words else None
        pids = [deployment.pid, *deployment.workers(2).values()]
        deployment.started(2)
        if status:
            assert get(status, "/ready")[0] == 200  # and nobody looks any more
        words = [word for pid in pids for word in ("-p", str(pid))]
        strace = ["timeout", "--signal=INT", "5", "strace", "-f", "-o", str(folder / "trace"), *words]
        for _ in range(2 if status else 1):  # 5 s after the request above a timer is due, once
            subprocess.run(strace, check=False, capture_output=True, timeout=3 * DEADLINE)
            trace = (folder / "trace").read_text().splitlines()
            # strace shows the calls in which it finds the threads, and leaves them in.
            calls = [
                line for line in trace if not re.search(r"epoll_wait|futex|detached|restart_syscall", line)
            ]
            if not calls:
                break
        assert calls == []
        assert len(trace) <= 4 * len(pids)
        assert deployment.stop() == 0


def test_supervisor_does_not_import_the_app(folder):
    (folder / "app.py").write_text(
        APP + f"\nopen('{folder}/imported-by', 'a').write(f'{{os.getpid()}}\\n')\n"
    )
    with serving(folder, workers=2) as deployment:
        pids = set(deployment.workers(2).values())
        deployment.started(2)
        assert {int(pid) for pid in (folder / "imported-by").read_text().split()} == pids
        assert deployment.stop() == 0


def test_help_names_the_option():
    done = subprocess.run(
        [sys.executable, "-m", "reactor", "serve", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert "--workers N" in done.stdout
