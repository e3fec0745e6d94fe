"""Packs the kit (files/kit) for the module of the same name, which documents the options."""

from __future__ import annotations

import base64
import functools
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

SOURCES = Path(__file__).resolve().parents[3] / "files" / "kit" / "src"
MAIN = "import sys\nfrom llamakit.cli import main\nsys.exit(main())\n"
# The oldest date that a zip file can hold: what is packed depends on the sources alone.
EPOCH = (1980, 1, 1, 0, 0, 0)


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """The controller's half of the module ``kit``."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The module's result: ``rc``, ``stdout`` and ``stderr`` of a command, or ``changed``."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if "models" in arguments:
            arguments["stdin"] = read_config(arguments.pop("models"), arguments.pop("routes"))
        result: dict[str, Any] = self._execute_module(
            module_name="kit",
            module_args={**arguments, "program": base64.b64encode(pack(SOURCES)).decode()},
            task_vars=task_vars,
        )
        # What was passed in is long and says nothing.
        result.get("invocation", {}).get("module_args", {}).pop("program", None)
        return result


def read_config(models: str, routes: str) -> str:
    """What people edit, checked and as JSON. AnsibleActionFail says what is wrong with it."""
    sys.path.insert(0, str(SOURCES))
    try:
        from llamakit import config
        from llamakit.config.problems import ConfigError
    except ImportError as error:
        raise AnsibleActionFail(
            f"{sys.executable} runs Ansible and lacks the module {error.name}; expected the "
            "controller that `./console.sh setup` installs: . runtime/controller/bin/activate"
        ) from error
    try:
        return json.dumps(config.read_config(Path(models), Path(routes)))
    except ConfigError as error:
        raise AnsibleActionFail(str(error)) from error


@functools.cache
def pack(sources: Path) -> bytes:
    """A zip file that Python runs: every source and data file below ``sources``."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py", EPOCH), MAIN)
        for file in sorted(sources.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                name = file.relative_to(sources).as_posix()
                archive.writestr(
                    zipfile.ZipInfo(name, EPOCH), file.read_bytes(), zipfile.ZIP_DEFLATED
                )
    return packed.getvalue()
