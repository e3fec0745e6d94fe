"""The sockets the proxy accepts on: its own, or those that systemd holds for it."""

import os
import socket

from .settings import Settings, SettingsError

BACKLOG = 1024
_FIRST_INHERITED = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def listen(settings: Settings) -> list[socket.socket]:
    """Listening sockets. SettingsError when there can be none."""
    return _inherited() or [_own(settings)]


def _inherited() -> list[socket.socket]:
    """What a socket unit gave this very process; [] without one.

    The variables are taken out of the environment: they are not meant for our children.
    """
    pid, count, _ = (os.environ.pop(name, "") for name in _VARIABLES)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    sockets = []
    for descriptor in range(_FIRST_INHERITED, _FIRST_INHERITED + int(count)):
        try:
            os.set_inheritable(descriptor, False)
            passed = socket.socket(fileno=descriptor)
            listening = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise SettingsError(
                f"LISTEN_FDS is {count}, but descriptor {descriptor} is no socket "
                f"({error.strerror}); start the proxy through its socket unit"
            ) from error
        if not listening or passed.type != socket.SOCK_STREAM:
            raise SettingsError(
                f"the socket unit passed a {passed.type.name} socket as descriptor {descriptor} "
                "that does not listen; expected ListenStream= and Accept=no"
            )
        passed.setblocking(False)
        sockets.append(passed)
    return sockets


def _own(settings: Settings) -> socket.socket:
    host, port = settings.proxy_host, settings.proxy_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise SettingsError(
            f"can't listen on {host}:{port}: {reason}; see what uses it with `ss -ltnp`, "
            "or set LLAMA_PROXY_HOST and LLAMA_PROXY_PORT to another address"
        ) from error
