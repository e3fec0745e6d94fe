"""A client for supervisord's XML-RPC interface over its unix socket."""

from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from pathlib import Path
from typing import Any

RPC_TIMEOUT = 30.0


class SupervisorUnavailable(Exception):
    """Nothing answers on the supervisor's socket."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__()
        self._path, self._timeout = path, timeout

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        # The base class closes the connection that is kept here, after errors and at the end.
        kept = self._connection[1] or _UnixConnection(self._path, self._timeout)
        self._connection = host, kept
        return kept


class Supervisor:
    """Calls supervisord; every method raises SupervisorUnavailable when it does not answer.

    ``timeout`` is in seconds and bounds one call, stopping a service included.
    """

    def __init__(self, socket_path: Path, timeout: float = RPC_TIMEOUT) -> None:
        self._proxy = xmlrpc.client.ServerProxy(
            "http://localhost", transport=_UnixTransport(str(socket_path), timeout)
        )

    def close(self) -> None:
        """Closes the connection."""
        self._proxy("close")()

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._proxy.supervisor, method)(*arguments)
        except (OSError, http.client.HTTPException) as error:
            raise SupervisorUnavailable(str(error)) from error

    def pid(self) -> int:
        """The supervisor's own process id."""
        return int(self._call("getPID"))

    def processes(self) -> dict[str, dict[str, Any]]:
        """Every program by name: statename, pid (0 when none runs), start, spawnerr, …"""
        return {info["name"]: info for info in self._call("getAllProcessInfo")}

    def reread(self) -> tuple[list[str], list[str], list[str]]:
        """Reads the definitions again; what was added, changed and removed since."""
        added, changed, removed = self._call("reloadConfig")[0]
        return added, changed, removed

    def add(self, name: str) -> None:
        """Takes up a new definition and starts it."""
        self._call("addProcessGroup", name)

    def remove(self, name: str) -> None:
        """Stops a service, waiting for its end, and forgets its definition."""
        self._call("stopProcessGroup", name)
        self._call("removeProcessGroup", name)

    def start(self, name: str) -> None:
        """Starts a service without waiting; does nothing when it runs already."""
        try:
            self._call("startProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if "ALREADY_STARTED" not in fault.faultString:
                raise

    def stop(self, name: str) -> None:
        """Stops a service and waits for its end; does nothing when it does not run."""
        try:
            self._call("stopProcess", name)
        except xmlrpc.client.Fault as fault:
            if "NOT_RUNNING" not in fault.faultString:
                raise

    def signal(self, name: str, signal: str) -> None:
        """Sends a signal, such as ``HUP``, to a service's own process."""
        self._call("signalProcess", name, signal)

    def shutdown(self) -> None:
        """Stops every service, then the supervisor itself. Returns at once."""
        self._call("shutdown")
