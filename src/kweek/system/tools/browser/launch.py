"""Started beside us by path: takes its network away, hands a listening socket of it back, and becomes a browser.

    python -I -S launch.py CHANNEL COMMANDS ANSWERS PROGRAM FLAGS...

In the new network there is nothing but a loopback address, and on it nothing but the socket that is handed back over
the descriptor CHANNEL. So the browser reaches what listens there, the proxy, and nothing else by whatever protocol; the
proxy itself stays in the network of its own process. COMMANDS and ANSWERS are the pipes of the DevTools protocol.
"""

import ctypes
import fcntl
import os
import socket
import struct
import sys

NOBODY = 65534
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # of unshare(2)
_SET_FLAGS, _UP = 0x8914, 0x1  # SIOCSIFFLAGS and IFF_UP of netdevice(7)


def take_network() -> None:
    """Leave this network for one of its own, with a loopback address that works.

    Raises:
        OSError: the kernel does not let this user.
    """
    user, group, as_root = os.getuid(), os.getgid(), os.geteuid() == 0
    kernel = ctypes.CDLL(None, use_errno=True)
    if kernel.unshare(_NEW_NETWORK | (0 if as_root else _NEW_USER)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if not as_root:
        for name, line in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123 - no file of ours
                file.write(line)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", _UP))
    if as_root:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def main(words: list[str]) -> None:
    """Do it all; what goes wrong is said over the channel."""
    channel = socket.socket(fileno=int(words[0]))
    try:
        take_network()
        listener = socket.create_server(("127.0.0.1", 0))
    except OSError as error:
        channel.sendall((error.strerror or str(error)).encode())
        raise SystemExit(1) from None
    port = listener.getsockname()[1]
    socket.send_fds(channel, [b"\0"], [listener.fileno()])
    # Where Chromium expects them, through numbers that neither of them has.
    high = [fcntl.fcntl(int(word), fcntl.F_DUPFD, 64) for word in words[1:3]]
    for source, target in zip(high, (3, 4), strict=True):
        os.dup2(source, target)
        os.close(source)
    os.closerange(5, 1 << 16)
    os.execv(words[3], [*words[3:], f"--proxy-server=http://127.0.0.1:{port}"])  # noqa: S606 - as it was named


if __name__ == "__main__":
    main(sys.argv[1:])
