"""A port of this process answers at the addresses that are named only."""

import contextlib
import ipaddress
import os
import socket
import threading
import time

import pytest

from cxr_data.core import open_ports
from cxr_data.core.errors import CxrError, UsageError


def answers(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as client:
        client.settimeout(5)
        return client.connect_ex((address, port)) == 0


@pytest.fixture
def outside() -> str:
    """An address of this machine that other machines reach."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("203.0.113.1", 9))  # sends nothing
        return probe.getsockname()[0]
    pytest.skip("this machine is on no network")


@pytest.fixture(params=["0.0.0.0", "::"])
def listener(request):
    """A socket that listens at all addresses of this machine, as TensorFlow's servers do."""
    if request.param == "::" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6")
    family = socket.AF_INET6 if request.param == "::" else socket.AF_INET
    dual = family == socket.AF_INET6
    with socket.create_server((request.param, 0), family=family, dualstack_ipv6=dual, reuse_port=True) as one:
        yield one


def test_a_kept_port_answers_at_no_other_address(listener, outside):
    port = listener.getsockname()[1]
    assert answers(outside, port)
    open_ports.keep_to(port, open_ports.LOOPBACK)
    assert answers("127.0.0.1", port)
    if listener.family == socket.AF_INET6:
        assert answers("::1", port)
    assert not answers(outside, port)


def test_the_address_of_a_network_is_forwarded(listener, outside):
    port = listener.getsockname()[1]
    open_ports.keep_to(port, open_ports.addresses_of(outside))
    sent = os.urandom(1 << 20)
    with socket.create_connection((outside, port), 5) as client, contextlib.ExitStack() as accepted:
        server = accepted.enter_context(listener.accept()[0])
        sending = threading.Thread(target=lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR)))
        sending.start()
        with server.makefile("rb") as received:
            assert received.read() == sent
        server.sendall(b"answer")
        server.close()
        with client.makefile("rb") as received:
            assert received.read() == b"answer"
        sending.join()


def test_no_more_than_so_many_are_forwarded_at_a_time(listener, outside, monkeypatch, caplog):
    monkeypatch.setattr(open_ports, "MOST_CONNECTIONS", 2)
    port = listener.getsockname()[1]
    open_ports.keep_to(port, open_ports.addresses_of(outside))
    with contextlib.ExitStack() as opened:
        # One after the other: two at once may be accepted in either order.
        pairs = [
            (
                opened.enter_context(socket.create_connection((outside, port), 5)),
                opened.enter_context(listener.accept()[0]),
            )
            for _ in range(2)
        ]
        for _ in range(2):
            with socket.create_connection((outside, port), 5) as third, contextlib.suppress(ConnectionError):
                assert third.recv(1) == b""
        (line,) = [record.getMessage() for record in caplog.records if str(port) in record.getMessage()]
        assert outside in line
        for one in pairs[0]:
            one.close()
        # The threads of the first connection end soon.
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        for _ in range(500):
            late = opened.enter_context(socket.create_connection((outside, port), 5))
            with contextlib.suppress(ConnectionError):
                if late.recv(1) == b"+":
                    return
            time.sleep(0.02)
    pytest.fail("the place of a connection that has ended is not taken by another")


def answer(listener: socket.socket) -> None:
    """Send a byte to whoever connects, until the listener is closed."""
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].sendall(b"+")


def test_a_peer_that_is_gone_without_a_word_is_noticed(listener, outside):
    port = listener.getsockname()[1]
    open_ports.keep_to(port, open_ports.addresses_of(outside))
    with socket.create_connection((outside, port), 5) as client, listener.accept()[0]:
        forwarded = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as one:
                if one.getpeername() == client.getsockname():
                    forwarded.append(one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        assert forwarded == [1]


def test_who_came_before_the_port_was_kept_is_disconnected(listener, outside):
    port = listener.getsockname()[1]
    early, friend = (socket.create_connection((at, port), 5) for at in (outside, "127.0.0.1"))
    with early, friend, contextlib.ExitStack() as accepted:
        # TensorFlow accepts at once; who is not accepted cannot be disconnected.
        with pytest.raises(CxrError, match=str(port)):
            open_ports.keep_to(port, open_ports.LOOPBACK)
        servers = [accepted.enter_context(listener.accept()[0]) for _ in range(2)]
        open_ports.keep_to(port, open_ports.LOOPBACK)
        assert early.recv(1) == b""
        servers[1].sendall(b"+")
        assert friend.recv(1) == b"+"


def test_what_is_open_is_read_from_the_kernel(listener):
    port = listener.getsockname()[1]
    assert open_ports.listening_at([os.getpid()])[port] == [listener.getsockname()[0]]
    assert port not in open_ports.listening_at([os.getppid()])


def test_a_host_of_no_address_here_is_refused(monkeypatch):
    assert open_ports.addresses_of("127.0.0.1") == {ipaddress.ip_address("127.0.0.1")}
    found = {"elsewhere": "203.0.113.1", "debian": "127.0.1.1"}

    def resolved(host, port):
        if host not in found:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found[host], 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    for host, named in (("elsewhere", "203.0.113.1"), ("debian", "127.0.1.1"), ("nobody", "no address")):
        with pytest.raises(UsageError, match=f"--host={host}: .*{named}"):
            open_ports.addresses_of(host)


def test_a_system_that_binds_to_no_device_is_refused(listener, monkeypatch):
    monkeypatch.setattr(socket, "SO_BINDTODEVICE", 4711)  # no such option
    with pytest.raises(UsageError, match="--listen=host: .*--listen=all"):
        open_ports.keep_to(listener.getsockname()[1], open_ports.LOOPBACK)
