"""What the proxy would say of its settings and certificate, asked before a host is touched."""

import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

FILES = Path(__file__).resolve().parents[3] / "files"
SOURCES = (FILES / "proxy_app" / "src", FILES / "kit" / "src")


def _find_sources() -> None:
    """Lets the kit's own packages be imported from beside the plugins."""
    for folder in map(str, SOURCES):
        if folder not in sys.path:
            sys.path.insert(0, folder)


def proxy_settings_problem(text: str) -> str:
    """Why the proxy refuses a config.env with this text; empty when it does not.

    AnsibleFilterError when the proxy's sources are not beside the plugins.
    """
    _find_sources()
    try:
        from llamakit_proxy.settings import SettingsError, from_values, read_env_file
    except ImportError as error:
        raise AnsibleFilterError(
            f"proxy_settings_problem: {error}; expected the proxy in {SOURCES[0]}"
        ) from error
    with tempfile.NamedTemporaryFile("w", prefix="config-", suffix=".env") as file:
        file.write(text)
        file.flush()
        try:
            from_values(read_env_file(Path(file.name)))
        except SettingsError as error:
            return str(error).replace(f"{file.name}:", "config.env, line ")
    return ""


def certificate_problem(certificate: str, key: str, certificate_file: str, key_file: str) -> str:
    """Why the proxy can't serve with a certificate and its key; empty when it can.

    Both are PEM text, because a file may be vaulted; the files are what the answer calls them, and
    it shows nothing of what is in them. AnsibleFilterError as above.
    """
    _find_sources()
    try:
        from llamakit.services.certificate_end import CertificateUnreadable, certificate_end
        from llamakit_proxy.settings import SettingsError
        from llamakit_proxy.tls import context_of
    except ImportError as error:
        raise AnsibleFilterError(
            f"certificate_problem: {error}; expected the kit's packages in {FILES}"
        ) from error
    with tempfile.TemporaryDirectory(prefix="certificate-") as folder:
        paths = {Path(folder, "c"): certificate_file, Path(folder, "k"): key_file}
        for path, text in zip(paths, (certificate, key), strict=True):
            path.write_text(f"{text}\n", encoding="utf-8", errors="surrogateescape")
        try:
            context_of(*paths)
            end = certificate_end(Path(folder, "c"))
        except (SettingsError, CertificateUnreadable) as error:
            problem = str(error)
            for path, name in paths.items():
                problem = problem.replace(str(path), name)
            return problem
    if end < datetime.now(UTC):
        return f"the certificate {certificate_file} ended on {end:%F %R} UTC; give a renewed one"
    return ""


class FilterModule:
    """What Ansible looks for in a filter plugin."""

    def filters(self) -> dict[str, Any]:
        return {
            "proxy_settings_problem": proxy_settings_problem,
            "certificate_problem": certificate_problem,
        }
