"""Sends large files in pieces to the module of the same name, which documents the options."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# Large enough that a fast network is used, small enough to go through anybody's /tmp (bytes).
PIECE = 64 << 20


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """The controller's half of bring_files."""

    TRANSFERS_FILES = True
    _supports_check_mode = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """``changed``, and in ``brought`` the paths of the files that were not there."""
        super().run(tmp, task_vars)
        self._task_vars = task_vars or {}
        files = [dict(file) for file in self._task.args["files"]]
        found = self._step("look", files)["files"]
        missing = [(file, at) for file, at in zip(files, found, strict=True) if not at["present"]]
        needed = sum(int(file["size"]) - at["part"] for file, at in missing)
        if missing and needed > missing[0][1]["free"]:
            first, at = missing[0]
            raise AnsibleActionFail(
                f"These files need {needed / 1e9:.1f} GB more on the disk of {first['dest']}, "
                f"which has {at['free'] / 1e9:.1f} GB free. Nothing was copied. "
                "Make room, and run the same command again."
            )
        if not self._task.check_mode:
            for file, at in missing:
                self._send(file, at["part"])
        return {"changed": bool(missing), "brought": [file["dest"] for file, _ in missing]}

    def _send(self, file: dict[str, Any], done: int) -> None:
        source, size = Path(file["src"]), int(file["size"])
        folder = self._make_tmp_path()
        remote = self._connection._shell.join_path(folder, "piece")
        try:
            with source.open("rb") as opened, tempfile.NamedTemporaryFile() as piece:
                opened.seek(done)
                while chunk := opened.read(PIECE):
                    piece.seek(0)
                    piece.truncate()
                    piece.write(chunk)
                    piece.flush()
                    self._transfer_file(piece.name, remote)
                    self._fixup_perms2((folder, remote))
                    self._step("append", [file], piece=remote, offset=done)
                    done += len(chunk)
                    if size > PIECE:
                        Display().display(
                            f"  {source.name}: {100 * done // size}% of {size:,} bytes"
                        )
        finally:
            self._remove_tmp_path(folder)
        self._step("finish", [file])

    def _step(self, step: str, files: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        arguments = {**self._task.args, **more, "files": files, "step": step}
        result: dict[str, Any] = self._execute_module(
            module_name="bring_files", module_args=arguments, task_vars=self._task_vars
        )
        if result.get("failed"):
            raise AnsibleActionFail(result["msg"], result=result)
        return result
