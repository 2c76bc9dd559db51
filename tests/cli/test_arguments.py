"""Argument values: each invalid one is refused in one line that names the option and the cause."""

import pytest

from tests.cli.programs import usage_error


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["--listen", "[::1]"], "argument --listen: '[::1]' has no port: write [IPV6]:PORT"),
        (["--listen", "http://127.0.0.1:80"], "'http://127.0.0.1:80' is a URL: write HOST:PORT"),
        (["--listen", "x" * 64 + ":80"], "is no host name: label"),
        (["--listen", "udp::53"], "'udp::53' is for connect: to serve datagrams, write --udp --listen :53"),
        (["--listen", "nonsense"], "'nonsense' has no port: write HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "port 99999 in '127.0.0.1:99999' is out of range: 0 to 65535"),
        (["--listen", "127.0.0.1:http"], "'http' in '127.0.0.1:http' is no port number"),
        (["--idle-timeout", "-1"], "argument --idle-timeout: '-1' is not a number of seconds above 0"),
        (["--idle-timeout", "soon"], "argument --idle-timeout: 'soon' is not a number of seconds above 0"),
        (["--max-connections", "0"], "argument --max-connections: '0' is not a whole number of 1 or more"),
        (["--max-per-ip", "-1"], "argument --max-per-ip: '-1' is not a whole number of 1 or more"),
        (["--drain-timeout", "nan"], "argument --drain-timeout: 'nan' is not a number of seconds above 0"),
        (["--max-connections", "many"], "argument --max-connections: 'many' is not a whole number"),
        (["--max-connections", "9" * 5000], "argument --max-connections: '999"),
        (["--idle-timeout", "nan"], "argument --idle-timeout: 'nan' is not a number of seconds"),
        (["--idle-timeout=-inf"], "argument --idle-timeout: '-inf' is not a number of seconds"),
        (["connect", "127.0.0.1:1", "--timeout", "0"], "argument --timeout: '0' is not a number of seconds"),
        (
            ["connect", "127.0.0.1:1", "--tls", "--alpn", ""],
            "argument --alpn: the ALPN name '' must have 1 to",
        ),
        (
            ["connect", "127.0.0.1:1", "--tls", "--alpn", "a,,b"],
            "argument --alpn: the ALPN name '' must have",
        ),
        (["serve", "--tls-cert", "x", "--alpn", "x" * 256], "argument --alpn: the ALPN name 'xxx"),
        (
            ["serve", "--tls-cert", "x", "--alpn", "h\n2\u00e9"],
            r"argument --alpn: the ALPN name 'h\n2é' must",
        ),
        (["connect", "x" * 64 + ":1", "--tls"], "argument ADDRESS: 'xxx"),
    ],
)
def test_invalid_argument_is_one_line_with_the_cause(capfd, words, cause):
    assert cause in usage_error(capfd, *words)
