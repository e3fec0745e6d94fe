"""config/local.env: what would have no effect is told, with its line and without its value."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamakit.cli import main
from llamakit.config.local_env import SETTINGS, local_env_problems

SECRET = "hunter2hunter2"


def test_the_line_ends_of_windows_are_told(tmp_path: Path) -> None:
    file = tmp_path / "local.env"
    file.write_bytes(f"LLAMA_PROXY_HOST=0.0.0.0\r\nHF_TOKEN={SECRET}\r\n".encode())
    (problem,) = local_env_problems(file)
    assert "CR LF" in problem.found
    assert "sed -i" in problem.remedy


@pytest.mark.parametrize(
    ("line", "found", "remedy"),
    [
        ("LLAMA_PROXY_PROT={}", "LLAMA_PROXY_PROT", "did you mean 'LLAMA_PROXY_PORT'?"),
        ("PROXY_PORT={}", "PROXY_PORT", "did you mean 'LLAMA_PROXY_PORT'?"),
        ("HF_TOKENS={}", "HF_TOKENS", "did you mean 'HF_TOKEN'?"),
        ("LLAMA_SERVER_HOST={}", "LLAMA_SERVER_HOST", "LLAMA_SERVER_PORT"),
        ("POSTGRES_ZZZZZZZZZ={}", "POSTGRES_ZZZZZZZZZ", "correct the name"),
        ("LLAMA_PROXY_RATE_LIMIT = {}", "a space before the =", "correct the line"),
        ("export HF_TOKEN={}", "export before the name", "correct the line"),
        ("llama_proxy_port={}", "no name in capitals", "correct the line"),
        ("{}==", "no name in capitals", "correct the line"),
        ("{}", "a line without an =", "correct the line"),
        ("HF_TOKEN=a\nHF_TOKEN={}", "a second time (first: ", "remove one"),
    ],
)
def test_a_line_without_effect_is_told_without_its_value(
    tmp_path: Path, line: str, found: str, remedy: str
) -> None:
    file = tmp_path / "local.env"
    text = "# ours\n\n" + line.format(SECRET)
    file.write_text(text)
    (problem,) = local_env_problems(file)
    assert problem.where == f"{file}, line {len(text.splitlines())}"
    assert found in problem.found
    assert remedy in problem.remedy
    assert SECRET not in str(problem)


def test_settings_and_the_variables_of_other_programs_are_let_through(tmp_path: Path) -> None:
    others = (
        "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "PIP_CERT",
        "PIP_INDEX_URL", "PIP_CACHE_DIR", "REQUESTS_CA_BUNDLE", "HF_HUB_OFFLINE", "HF_HOME",
        "ANSIBLE_FORKS", "CMAKE_ARGS", "CUDACXX", "TMPDIR", "LANG", "NO_COLOR", "LD_LIBRARY_PATH",
    )  # fmt: skip
    file = tmp_path / "local.env"
    file.write_text("".join(f"  {name}=a=b \n" for name in (*SETTINGS, *others)) + "#x\n")
    assert local_env_problems(file) == []
    assert local_env_problems(tmp_path / "none") == []


@pytest.mark.parametrize("command", ["prefetch", "read-config"])
def test_it_is_told_with_the_mistakes_of_the_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    files = {name: tmp_path / name for name in ("models.yaml", "routes.yaml", "local.env")}
    files["models.yaml"].write_text("models:\n  - {id: a}\n")
    files["local.env"].write_text(f"LLAMA_PROXY_PROT={SECRET}\n")
    arguments = ["--models", files["models.yaml"], "--routes", files["routes.yaml"]]
    arguments += ["--settings", files["local.env"]]
    if command == "prefetch":
        arguments += ["--state-dir", tmp_path, "--models-dir", tmp_path]
    assert main([command, *map(str, arguments)]) == 2
    told = capsys.readouterr().err
    assert "2 problems:" in told
    assert "local.env, line 1" in told
    assert told.endswith("Nothing was changed.\n")
