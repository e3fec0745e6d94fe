"""What the proxy would say of its settings, asked on the controller before a host is touched."""

import sys
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

SOURCES = Path(__file__).resolve().parents[3] / "files" / "proxy_app" / "src"


def proxy_settings_problem(text: str) -> str:
    """Why the proxy refuses a config.env with this text; empty when it does not.

    AnsibleFilterError when the proxy's sources are not beside the plugins.
    """
    if str(SOURCES) not in sys.path:
        sys.path.insert(0, str(SOURCES))
    try:
        from llamakit_proxy.settings import SettingsError, from_values, read_env_file
    except ImportError as error:
        raise AnsibleFilterError(
            f"proxy_settings_problem: {error}; expected the proxy in {SOURCES}"
        ) from error
    with tempfile.NamedTemporaryFile("w", prefix="config-", suffix=".env") as file:
        file.write(text)
        file.flush()
        try:
            from_values(read_env_file(Path(file.name)))
        except SettingsError as error:
            return str(error).replace(f"{file.name}:", "config.env, line ")
    return ""


class FilterModule:
    """What Ansible looks for in a filter plugin."""

    def filters(self) -> dict[str, Any]:
        return {"proxy_settings_problem": proxy_settings_problem}
