"""Binding listening sockets: every kind of address, refused arguments, and descriptors that must not leak."""

import errno
import os
import socket

import pytest

from reactor import Address, ListenError
from reactor.listening.binding import UnixPath, bind
from reactor.loop.system import System


def listen(text, **options):
    return bind(Address.parse(text), **{"backlog": 10, "reuse_port": False, "options": (), **options})


def reaches(family, sockaddr):
    with socket.socket(family) as client:
        client.settimeout(5)
        return client.connect_ex(sockaddr) == 0


@pytest.fixture(autouse=True)
def _nothing_left(descriptors):
    pass


def test_ipv4_address_is_bound():
    (sock,) = listen("127.0.0.1:0")
    with sock:
        assert reaches(socket.AF_INET, sock.getsockname())
        assert not sock.getblocking()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_ipv6_is_ipv6_only():
    (sock,) = listen("[::]:0")
    with sock:
        port = sock.getsockname()[1]
        assert reaches(socket.AF_INET6, ("::1", port))
        assert not reaches(socket.AF_INET, ("127.0.0.1", port))


class Taken(System):
    """Two addresses, of which the second has some of the ports in use that are free at the first."""

    def __init__(self, ports):
        self.ports = ports
        self.tried = []

    def resolve(self, address, *, passive=False):
        return [(socket.AF_INET, (host, address.port)) for host in ("127.0.0.1", "127.0.0.2")]

    def new_listening_socket(self, family):
        system = self

        class Listening(socket.socket):
            def bind(self, sockaddr):
                if sockaddr[0] == "127.0.0.2":
                    system.tried.append(sockaddr[1])
                    if len(system.tried) <= system.ports:
                        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
                super().bind(sockaddr)

        return Listening(family, socket.SOCK_STREAM)


def test_port_that_is_in_use_at_another_address_of_the_name_is_not_taken():
    first, second = listen("name:0", system=Taken(9))
    with first, second:
        assert first.getsockname()[1] == second.getsockname()[1]


def test_ports_in_use_are_tried_ten_times():
    system = Taken(1000)
    with pytest.raises(ListenError, match="cannot listen on name:0: Address already in use"):
        listen("name:0", system=system)
    assert len(system.tried) == 10


def test_port_that_was_asked_for_is_tried_once():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    system = Taken(1000)
    with pytest.raises(ListenError):
        listen(f"name:{port}", system=system)
    assert len(system.tried) <= 1


def test_every_interface_is_both_families():
    (sock,) = listen(":0")
    with sock:
        port = sock.getsockname()[1]
        assert reaches(socket.AF_INET6, ("::1", port))
        assert reaches(socket.AF_INET, ("127.0.0.1", port))


def test_every_interface_without_dual_stack_is_ipv4(monkeypatch):
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    (sock,) = listen(":0")
    with sock:
        assert sock.family == socket.AF_INET
        assert reaches(socket.AF_INET, ("127.0.0.1", sock.getsockname()[1]))


def test_name_with_several_addresses_has_one_port(monkeypatch):
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
    first, second = listen("localhost:0")
    with first, second:
        assert {first.family, second.family} == {socket.AF_INET, socket.AF_INET6}
        assert first.getsockname()[1] == second.getsockname()[1]


def test_socket_options_are_set_before_bind():
    option = (socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    (sock,) = listen("127.0.0.1:0", options=[option])
    with sock:
        assert sock.getsockopt(*option[:2]) in {4096, 8192}


def test_reuse_port_allows_two_listeners():
    (first,) = listen("127.0.0.1:0", reuse_port=True)
    with first:
        (second,) = listen(f"127.0.0.1:{first.getsockname()[1]}", reuse_port=True)
        second.close()


def test_reuse_port_is_refused_on_a_platform_without_it(monkeypatch):
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    with pytest.raises(ListenError, match="this platform has no SO_REUSEPORT: leave reuse_port out"):
        listen("127.0.0.1:0", reuse_port=True)


def test_reuse_address_is_not_set_where_it_would_share_the_port(monkeypatch):
    monkeypatch.setattr("reactor.listening.binding.sys.platform", "win32")
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_KEEPALIVE, raising=False)
    (sock,) = listen("127.0.0.1:0")
    with sock:
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_port_in_use_is_one_line_with_the_address():
    (sock,) = listen("127.0.0.1:0")
    with sock, pytest.raises(ListenError) as refused:
        listen(f"127.0.0.1:{sock.getsockname()[1]}")
    assert refused.value.errno == errno.EADDRINUSE
    assert refused.value.strerror.startswith(
        f"cannot listen on 127.0.0.1:{refused.value.strerror.split(':')[1]}"
    )
    assert "\n" not in refused.value.strerror


def test_second_of_two_sockets_that_fails_closes_the_first(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", taken.getsockname()),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
        with pytest.raises(ListenError, match="Address already in use"):
            listen(f"localhost:{taken.getsockname()[1]}")


def test_option_that_is_refused_closes_the_socket():
    with pytest.raises(ListenError):
        listen("127.0.0.1:0", options=[(socket.SOL_SOCKET, 9999, 1)])


def test_address_of_another_machine_is_refused():
    with pytest.raises(ListenError, match="choose an address of this machine"):
        listen("192.0.2.1:0")


def test_unknown_name_is_refused(monkeypatch):
    def unknown(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ListenError, match="cannot listen on nowhere:1: Name or service not known"):
        listen("nowhere:1")


def test_unix_socket_is_bound_and_removed(tmp_path):
    path = str(tmp_path / "s")
    (sock,) = listen(f"unix:{path}")
    with sock:
        assert reaches(socket.AF_UNIX, path)


def test_stale_unix_socket_is_replaced(tmp_path):
    path = str(tmp_path / "s")
    (dead,) = listen(f"unix:{path}")
    dead.close()
    (sock,) = listen(f"unix:{path}")
    with sock:
        assert reaches(socket.AF_UNIX, path)


def test_unix_socket_in_use_is_refused_and_kept(tmp_path):
    path = str(tmp_path / "s")
    (sock,) = listen(f"unix:{path}")
    with sock:
        with pytest.raises(ListenError, match="Address already in use: stop what listens there"):
            listen(f"unix:{path}")
        assert reaches(socket.AF_UNIX, path)


def test_unix_socket_with_a_full_backlog_is_in_use(tmp_path):
    path = str(tmp_path / "s")
    (sock,) = listen(f"unix:{path}", backlog=0)
    with sock, socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(path)
        with pytest.raises(ListenError, match="Address already in use"):
            listen(f"unix:{path}")


def test_file_that_is_no_socket_is_refused_and_kept(tmp_path):
    (tmp_path / "s").write_text("precious")
    with pytest.raises(ListenError, match="a file that is no socket is there: move it away"):
        listen(f"unix:{tmp_path}/s")
    assert (tmp_path / "s").read_text() == "precious"


def test_directory_at_a_unix_path_is_refused(tmp_path):
    with pytest.raises(ListenError) as refused:
        listen(f"unix:{tmp_path}")
    assert f"cannot listen on unix:{tmp_path}: a directory is there: name a socket in it" in str(
        refused.value
    )
    assert os.listdir(tmp_path) == []


def test_unix_path_in_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(ListenError, match="No such file or directory: make its directory first"):
        listen(f"unix:{tmp_path}/none/s")


def test_unix_path_is_removed_once(tmp_path):
    path = str(tmp_path / "s")
    (sock,) = listen(f"unix:{path}")
    with sock:
        file = UnixPath(path)
        file.remove()
        assert not os.path.exists(path)
        file.remove()


def test_unix_path_that_another_socket_replaced_is_not_removed(tmp_path):
    path = str(tmp_path / "s")
    (first,) = listen(f"unix:{path}")
    file = UnixPath(path)
    os.rename(path, f"{path}.old")
    (second,) = listen(f"unix:{path}")
    with first, second:
        file.remove()
        assert reaches(socket.AF_UNIX, path)


def test_inherited_descriptor_is_served():
    with socket.create_server(("127.0.0.1", 0)) as parent:
        (sock,) = listen(f"fd:{os.dup(parent.fileno())}")
        with sock:
            assert sock.getsockname() == parent.getsockname()
            assert not sock.get_inheritable()


def test_descriptor_that_does_not_listen_is_refused_and_stays_open():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(ListenError, match=f"cannot listen on fd:{ours.fileno()}: it is no listening"):
            listen(f"fd:{ours.fileno()}")
        ours.send(b"x")
        assert theirs.recv(1) == b"x"


def test_descriptor_that_is_not_open_is_refused():
    with pytest.raises(ListenError, match="Bad file descriptor: this process inherited no descriptor"):
        listen("fd:9999")
