"""Which addresses a port of this process answers at, where the server in it listens at all of them.

TensorFlow's servers do, and cannot be bound to an address. But a socket that listens can be bound to a device
(`SO_BINDTODEVICE`), by any user since Linux 5.7: to the loopback, it is refused to every other machine. A
port that other machines are to reach is forwarded from the addresses that are named.
"""

import contextlib
import ipaddress
import logging
import os
import pathlib
import re
import socket
import struct
import threading
import time
from collections.abc import Collection, Iterable, Iterator

from cxr_data.core.errors import CxrError, UsageError

logger = logging.getLogger(__name__)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LOOPBACK = frozenset(map(ipaddress.ip_address, ("127.0.0.1", "::1")))

_DEVICE = b"lo\0"
_PROBE_SECONDS, _CUT_SECONDS, _POLL_SECONDS = 0.2, 2.0, 0.05
_PIECE = 1 << 18
MOST_CONNECTIONS = 512
"""Connections to a forwarded address at a time: each has two threads. Who comes then is disconnected."""
# A peer that is gone without a word is noticed after two minutes, whether it was to answer or to ask.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 120_000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)
_FAMILIES = {4: socket.AF_INET, 16: socket.AF_INET6}  # by the bytes of an address


def addresses_of(host: str) -> frozenset[Address]:
    """Return the addresses of this machine that a name stands for.

    Raises:
      UsageError: it stands for none of this machine, or only for one that no other machine reaches.
    """
    if host == "localhost":
        return LOOPBACK
    try:
        found = {_address(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host={host}: no address is known for it; give a name of this machine") from error
    own = frozenset(address for address in found if _is_own(address))
    if not own:
        raise UsageError(
            f"--host={host}: {_text(found)} is not an address of this machine; give one that is, or "
            "--listen=all if a router or a container passes the ports on"
        )
    if all(address.is_loopback for address in own) and host not in map(str, own):
        raise UsageError(
            f"--host={host}: this machine takes it for {_text(own)}, which no other machine reaches; give "
            "its IP address, or --listen=all"
        )
    return own


def keep_to(port: int, addresses: Collection[Address]) -> None:
    """Let a port at which this process listens answer at the loopback and some addresses only.

    What came to it from elsewhere before this call is disconnected.

    Raises:
      UsageError: this system does not allow it.
      CxrError: a connection that came before cannot be ended, or an address is taken.
    """
    try:
        for listener in _sockets(port, listening=True):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _DEVICE)
        outside = _address_outside()
        is_kept = outside is None or not _answers(outside, port)
    except OSError:
        is_kept = False
    if not is_kept:
        raise UsageError(
            f"--listen=host: port {port} would answer at all addresses, since this system binds no listening "
            "socket to the loopback (Linux 5.7 and later do); give --listen=all, and close the port to "
            "strangers by a firewall"
        )
    _cut(port)
    for address in addresses:
        if not address.is_loopback:
            _forward(address, port)


def listening_at(processes: Iterable[int]) -> dict[int, list[str]]:
    """Return {port: addresses} at which processes listen, by the kernel's tables; `0.0.0.0` and `::` are all.

    Args:
      processes: their ids, of this user.
    """
    inodes = {inode for process in processes for inode in _inodes(process)}
    found: dict[int, set[str]] = {}
    for address, port, state, inode in _connections():
        if state == "0A" and inode in inodes:
            found.setdefault(port, set()).add(str(address))
    return {port: sorted(found[port]) for port in sorted(found)}


def _cut(port: int) -> None:
    """Disconnect what is connected to a port of this process from outside."""
    until = time.monotonic() + _CUT_SECONDS
    while _strangers(port):
        for connection in _sockets(port, listening=False):
            if not _address(connection.getsockname()[0]).is_loopback:
                with contextlib.suppress(OSError):  # it has gone meanwhile
                    connection.shutdown(socket.SHUT_RDWR)
        if time.monotonic() > until:
            raise CxrError(f"port {port}: somebody has connected while it was opened; start again")
        time.sleep(_POLL_SECONDS)


def _strangers(port: int) -> list[Address]:
    """Return the addresses, but those of the loopback, at which a port is connected, accepted or not yet."""
    own = _inodes(os.getpid()) | {0}
    return [
        address
        for address, number, state, inode in _connections()
        if number == port and state == "01" and inode in own and not address.is_loopback
    ]


def _forward(address: Address, port: int) -> None:
    """Forward what connects to an address to the same port of the loopback, until this process ends."""
    listener = socket.socket(_FAMILIES[len(address.packed)])
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as the server's own
    try:
        listener.bind((str(address), port))
    except OSError as error:
        raise CxrError(f"port {port} of {address}: {error.strerror}; choose another port") from error
    listener.listen()
    free = threading.BoundedSemaphore(MOST_CONNECTIONS)

    def connect(client: socket.socket) -> None:
        try:
            _connect(client, port)
        finally:
            free.release()

    def accept() -> None:
        is_full = False
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # too many files are open, or the client has gone
                time.sleep(_POLL_SECONDS)
                continue
            if free.acquire(blocking=False):
                is_full = False
                threading.Thread(target=connect, args=(client,), daemon=True).start()
                continue
            client.close()
            if not is_full:
                logger.warning(
                    "port %d of %s has %d connections: more are refused", port, address, MOST_CONNECTIONS
                )
            is_full = True

    threading.Thread(target=accept, name=f"forward {address}", daemon=True).start()


def _connect(client: socket.socket, port: int) -> None:
    with client, contextlib.suppress(OSError):
        _notice_end(client)
        with socket.create_connection(("127.0.0.1", port)) as server:
            _notice_end(server)
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join()


def _notice_end(one: socket.socket) -> None:
    for option in _KEEPALIVE:
        one.setsockopt(*option)


def _copy(source: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE):
            to.sendall(piece)
    with contextlib.suppress(OSError):
        to.shutdown(socket.SHUT_WR)


def _sockets(port: int, *, listening: bool) -> Iterator[socket.socket]:
    """Yield copies of the TCP sockets of this process that have a local port."""
    for descriptor, _ in _descriptors(os.getpid()):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as one:
            if (
                one.family in _FAMILIES.values()
                and one.type == socket.SOCK_STREAM
                and one.getsockname()[1] == port
                and bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) == listening
            ):
                yield one


def _descriptors(process: int) -> Iterator[tuple[int, int]]:
    """Yield (descriptor, inode) of the sockets of a process."""
    for descriptor in pathlib.Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            if inode := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor)):
                yield int(descriptor.name), int(inode[1])


def _inodes(process: int) -> set[int]:
    return {inode for _, inode in _descriptors(process)}


def _connections() -> Iterator[tuple[Address, int, str, int]]:
    """Yield (local address, port, state, inode) of the TCP sockets of this network namespace."""
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        with contextlib.suppress(OSError):  # without IPv6
            for line in pathlib.Path(table).read_text().splitlines()[1:]:
                _, local, _, state, *rest = line.split()
                digits, port = local.split(":")
                # Each word of four bytes is in the order of this machine.
                words = struct.pack(
                    f"={len(digits) // 8}I", *(int(w, 16) for w in re.findall(".{8}", digits))
                )
                yield (
                    _address(socket.inet_ntop(_FAMILIES[len(words)], words)),
                    int(port, 16),
                    state,
                    int(rest[5]),
                )


def _address(text: str | int) -> Address:
    address = ipaddress.ip_address(str(text).partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _is_own(address: Address) -> bool:
    with socket.socket(_FAMILIES[len(address.packed)]) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return not address.is_unspecified


def _address_outside() -> str | None:
    """Return an address of this machine on a network; None where it is on none."""
    for family, anywhere in ((socket.AF_INET, "203.0.113.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((anywhere, 9))  # which sends nothing
            return str(probe.getsockname()[0])
    return None


def _answers(address: str, port: int) -> bool:
    with socket.socket(_FAMILIES[len(_address(address).packed)]) as probe:
        probe.settimeout(_PROBE_SECONDS)
        return probe.connect_ex((address, port)) == 0


def _text(addresses: Iterable[Address]) -> str:
    return ", ".join(sorted(map(str, addresses)))
