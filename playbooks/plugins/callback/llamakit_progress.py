"""Progress for people: one line per step that did something, and failures without the noise."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: llamakit_progress
type: stdout
short_description: one line per step that changed something
description:
  - Prints a play's name once, a line for every task that changed something or took long, what a
    debug task says, and for a failure only its message and the program's own output.
  - With C(LLAMAKIT_ANSWERS_ONLY) set, what debug tasks say goes to stdout as it is, failures go to
    stderr, and nothing else is printed. Of a dictionary of C(stdout_lines) and
    C(stderr_lines) each goes where it belongs.
"""

QUIET_SECONDS = 5.0
HEARTBEAT_SECONDS = 30.0


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible has no types
    """The stdout callback that console.sh selects; ``-v`` selects Ansible's own instead."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "llamakit_progress"

    def __init__(self) -> None:
        super().__init__()
        self._answers_only = bool(os.environ.get("LLAMAKIT_ANSWERS_ONLY"))
        self._tty = sys.stdout.isatty() and not self._answers_only
        self._answers: list[tuple[str, list[str]]] = []
        self._remarks: list[tuple[str, list[str]]] = []
        self._lock = threading.Lock()
        self._task = ""
        self._began = 0.0
        self._drawn = False
        self._clock = threading.Thread(target=self._tick, daemon=True)
        self._clock.start()

    def _tick(self) -> None:
        """Shows that a long step is alive: in place on a terminal, rarely in a log."""
        said = 0.0
        while True:
            time.sleep(1)
            with self._lock:
                if not self._task:
                    continue
                took = time.monotonic() - self._began
                if self._tty and took >= 1:
                    sys.stdout.write(f"\r\033[K  … {self._task} ({took:.0f} s)")
                    sys.stdout.flush()
                    self._drawn = True
                elif not self._tty and min(took, time.monotonic() - said) >= HEARTBEAT_SECONDS:
                    said = time.monotonic()
                    self._line(f"  … {self._task} ({took:.0f} s)")

    def _line(self, text: str) -> None:
        if self._answers_only:
            return
        if self._drawn:
            sys.stdout.write("\r\033[K")
            self._drawn = False
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        with self._lock:
            self._task = ""
            self._line(f"==> {play.get_name().strip()}")

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        with self._lock:
            self._task, self._began = task.name or task.action, time.monotonic()

    v2_playbook_on_handler_task_start = v2_playbook_on_task_start
    v2_playbook_on_cleanup_task_start = v2_playbook_on_task_start

    def _done(self, mark: str, changed: bool, result: Any) -> None:
        with self._lock:
            took = time.monotonic() - self._began
            task = self._task or result.task.name
            if changed or (self._task and took >= QUIET_SECONDS):
                seconds = f" ({took:.0f} s)" if took >= 1 else ""
                self._line(f"  {mark} {self._host(result)}{task}{seconds}")
            if result.host.get_name() == "localhost":
                self._task = ""

    def v2_runner_on_ok(self, result: Any) -> None:
        if result.task.action in ("ansible.builtin.debug", "debug"):
            self._said(result)
        else:
            self._done("+" if result.is_changed() else "·", result.is_changed(), result)

    def _said(self, result: Any) -> None:
        """What a debug task says: the answer of a command, or a warning."""
        message, remarks = result.result.get("msg", ""), []
        if isinstance(message, dict):
            message, remarks = message["stdout_lines"], message["stderr_lines"]
        lines = message if isinstance(message, list) else str(message).splitlines()
        with self._lock:
            self._task = ""
            self._answers.append((result.host.get_name(), lines))
            self._remarks.append((result.host.get_name(), remarks))
            for line in [*remarks, *lines]:
                self._line(f"  ! {self._host(result)}{line}")

    def _answer(self) -> None:
        """Every host's answer, with its name where there are several."""
        for stream, said in ((sys.stderr, self._remarks), (sys.stdout, self._answers)):
            for host, lines in said:
                heading = [f"{host}:"] if lines and len({name for name, _ in said}) > 1 else []
                stream.write("".join(f"{line}\n" for line in [*heading, *lines]))
            stream.flush()

    @staticmethod
    def _host(result: Any) -> str:
        """The host's name before what it did, unless it is this machine."""
        name = result.host.get_name()
        return "" if name == "localhost" else f"{name}: "

    def v2_runner_on_skipped(self, result: Any) -> None:
        with self._lock:
            self._task = ""

    def v2_runner_retry(self, result: Any) -> None:
        """A retry is not news: the step's own line says how long it waited."""

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if ignore_errors:
            return
        with self._lock:
            self._complain(f"  ✗ {self._host(result)}{result.task.name}")
            self._task = ""
            for text in self._reasons(result.result):
                for line in text.rstrip().splitlines():
                    self._complain(f"    {line}")

    def _complain(self, text: str) -> None:
        if self._answers_only:
            sys.stderr.write(text.removeprefix("    ") + "\n")
        else:
            self._line(text)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        with self._lock:
            self._task = ""
            host, message = result.host.get_name(), result.result.get("msg")
            self._complain(f"  ✗ {host} cannot be reached: {message}")

    @staticmethod
    def _reasons(result: dict[str, Any]) -> list[str]:
        """What a person needs of a failure: the program's own words, else Ansible's message."""
        if result.get("_ansible_no_log") or "censored" in result:
            return ["The output is hidden, because it may hold a secret. To see it, run again with",
                    "-e llamakit_secure_logging=false on a screen nobody else watches."]
        failed = [item for item in result.get("results", []) if item.get("failed")] or [result]
        reasons = []
        for item in failed[:5]:
            own = (item.get("stderr") or item.get("stdout") or "").strip()
            reasons.append(own or str(item.get("msg", "failed, and said nothing")))
        return reasons

    def v2_playbook_on_stats(self, stats: Any) -> None:
        with self._lock:
            if self._answers_only:
                self._answer()
            for host in sorted(stats.processed):
                summary = stats.summarize(host)
                if summary["failures"] or summary["unreachable"]:
                    continue
                self._line(f"{host}: {summary['changed']} changed")
