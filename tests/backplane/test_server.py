"""What a broker says of itself: its version, its durability, and what it refuses to whom."""

import pytest

from reactor.backplane.server import Server, check_rights, describe
from reactor.errors import BrokerError

DURABLE = ([b"appendonly", b"yes"], [b"appendfsync", b"always"])


def server(info=b"", options=()):
    made = Server()
    made.add_info(b"# Server\r\nrun_id:abc\r\n" + info)
    for option in options:
        made.add_option(option)
    return made


@pytest.mark.parametrize("version", [b"6.0.16", b"5.0.7", b"3.2", b"2.8.24"])
def test_an_old_version_is_refused(version):
    with pytest.raises(BrokerError, match=f"Redis {version.decode()}; it must be 6.2 or newer"):
        server(b"redis_version:" + version).check_version()


@pytest.mark.parametrize("version", [b"6.2.0", b"6.10.1", b"7.0.15", b"7.2.4", b"10.0", b"unstable", b""])
def test_a_newer_version_and_one_that_is_not_said_are_taken(version):
    server(b"redis_version:" + version).check_version()


@pytest.mark.parametrize(
    ("info", "options", "run"),
    [
        (b"", DURABLE, "abc+"),
        (b"master_replid2:" + b"0" * 40, DURABLE, "abc+"),
        (b"master_replid2:" + b"0" * 39 + b"1", DURABLE, "abc"),  # it has replaced another one
        (b"", (DURABLE[0], [b"appendfsync", b"everysec"]), "abc"),
        (b"", ([b"appendonly", b"no"], DURABLE[1]), "abc"),
        (b"", (None, None), "abc"),  # CONFIG is refused
        (b"", ([], []), "abc"),
    ],
)
def test_only_a_server_that_waits_for_its_disk_and_has_replaced_none_is_durable(info, options, run):
    assert server(info, options).run == run


def test_a_server_that_says_nothing_has_a_name_all_the_same():
    assert Server().run == "-"


@pytest.mark.parametrize(
    ("memory", "policy", "evicts"),
    [
        (b"0", b"allkeys-lru", None),
        (b"100", b"noeviction", None),
        (b"100", b"allkeys-lru", "allkeys-lru"),
        (b"100", b"volatile-ttl", "volatile-ttl"),
    ],
)
def test_a_server_evicts_with_a_limit_and_a_policy(memory, policy, evicts):
    assert server(b"maxmemory:%s\r\nmaxmemory_policy:%s\r\n" % (memory, policy)).evicts == evicts
    assert server().evicts is None


@pytest.mark.parametrize(
    ("refused", "problem"),
    [
        ([(b"XADD", b"-ERR The user executing the script can't run this command script: f, on @s:8.")],
         "NOPERM its user lacks +xadd"),
        ([(b"GET", b"@user_script: 4: -NOPERM The user executing the script can't run this command\r\n"),
          (b"SET", b"NOPERM no permissions to run the 'set' command")], "NOPERM its user lacks +get +set"),
        ([(b"PUBLISH", b"-NOPERM ACL failure: No permissions to access a channel")],
         "NOPERM its user lacks &p:*"),
        ([(b"GET", b"-NOPERM No permissions to access a key"), (b"SET", b"-NOPERM No access to a key")],
         "NOPERM its user lacks ~p:*"),
        ([(b"HSET", b"-OOM command not allowed script: f, on @user_script:8.")], "OOM command not allowed"),
        ([(b"HSET", b"@user_script: 4: -READONLY it is a replica.\r\n")], "READONLY it is a replica."),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(refused, problem):
    with pytest.raises(BrokerError) as caught:
        check_rights(refused, "p:")
    assert str(caught.value) == f"the broker has answered: {problem}"


def test_what_is_not_refused_is_right():
    check_rights([], "p:")


def test_a_description_has_all_rights_where_one_is_missing():
    assert describe(None, "p:") == "the broker has closed the connection"
    assert describe(BrokerError("OOM it is full"), "p:") == "OOM it is full"
    text = describe(BrokerError("NOPERM it lacks +get"), "p:")
    assert text.startswith("NOPERM it lacks +get; what it needs is: resetchannels ~p:* &p:* +ping +select")
