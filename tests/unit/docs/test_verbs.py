"""The verbs of console.sh: one table, and everything that speaks of them agrees with it."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from llamakit_proxy import usage_cli, users_cli
from unit.docs import pages

_SCRIPT = pages.page("console.sh")


@dataclass(frozen=True)
class Verb:
    """A line of the table in console.sh; ``remote`` is its star: it also acts on hosts."""

    arguments: str
    remote: bool


def _verbs() -> dict[str, Verb]:
    table = re.search(r"^VERBS='\n(.*?)^'$", _SCRIPT, re.DOTALL | re.MULTILINE)
    assert table
    cells = (line.split("#") for line in table[1].splitlines())
    return {
        verb.strip(): Verb(arguments.strip(), text.strip().startswith("*"))
        for verb, arguments, text in cells
    }


def _labels(script: str, function: str) -> list[set[str]]:
    """The verbs of each branch of the last ``case`` in a shell function."""
    body = re.search(rf"^{function}\(\) {{\n(.*?)^}}", script, re.DOTALL | re.MULTILINE)
    assert body
    cases = re.findall(r"case \$verb in\n(.*?)\n  esac", body[1], re.DOTALL)
    branches = re.findall(r"^ {4}([^\s()*][^()\n]*)\)", cases[-1], re.MULTILINE)
    return [{verb.strip() for verb in branch.split("|")} for branch in branches]


def _split(words: list[str]) -> tuple[bool, list[str]]:
    """Whether ``-l`` stands before the verb, and the verb with what follows it."""
    remote = False
    while words and words[0].startswith("-"):
        remote |= words[0] == "-l"
        words = words[2:] if words[0] in ("-l", "-i") else words[1:]
    return remote, words


def test_the_readme_shows_the_help_text() -> None:
    command = ["bash", str(pages.ROOT / "console.sh"), "help"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert text in pages.fences(pages.page("README.md"))


@pytest.mark.parametrize("verb", _verbs())
def test_every_verb_explains_itself_before_anything_is_installed(tmp_path: Path, verb: str) -> None:
    shutil.copy(pages.ROOT / "console.sh", tmp_path)
    (tmp_path / "files").symlink_to(pages.ROOT / "files")
    arguments = _verbs()[verb].arguments
    for given in ([verb, "--help"], [verb, "-h"], ["-l", "gpu01", verb, "x", "--help"]):
        run = subprocess.run(
            ["bash", tmp_path / "console.sh", *given], capture_output=True, text=True, check=False
        )
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.startswith(f"Usage: ./console.sh {verb} {arguments}".strip() + "\n\n")
        assert ("-l HOST" in run.stdout) == _verbs()[verb].remote
    assert {file.name for file in tmp_path.iterdir()} == {"console.sh", "files"}


def test_each_verb_of_the_table_is_understood_and_no_other() -> None:
    understood = set().union(*_labels(_SCRIPT, "here"))
    assert understood - {"-h", "--help"} == set(_verbs())


def test_the_starred_verbs_are_understood_for_hosts_and_the_others_refused() -> None:
    verbs = _verbs()
    here_alone = {name for name, verb in verbs.items() if not verb.remote} - {"help"}
    *acting, refused = _labels(pages.page("files/console/hosts.sh"), "there")
    assert refused == here_alone
    assert set().union(*acting) == {name for name, verb in verbs.items() if verb.remote}


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_commands_in_the_documents_use_verbs_that_exist(page: Path) -> None:
    verbs = _verbs()
    for arguments in pages.console_commands(page.read_text(encoding="utf-8")):
        command = f"./console.sh {' '.join(arguments)}"
        remote, words = _split(arguments)
        if not words:
            continue
        verb, given = words[0], words[1:]
        assert verb in verbs, f"{command}: there is no verb {verb}"
        assert verbs[verb].remote or not remote, f"{command}: {verb} does not act on hosts"
        if verb not in ("user", "usage"):
            known = set(re.findall(r"--?[a-z]+", verbs[verb].arguments))
            unknown = {word for word in given if word.startswith("-")} - known
            assert not unknown, f"{command}: {verb} has no {unknown}"


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_plays_and_scenarios_in_the_documents_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for playbook in re.findall(r"ansible-playbook ([\w/.-]+)", text):
        assert (pages.ROOT / playbook).is_file(), playbook
    for scenario in re.findall(r"molecule test -s (\w+)", text):
        assert (pages.ROOT / f"molecule/{scenario}/molecule.yml").is_file(), scenario


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_commands_about_users_can_be_parsed(page: Path) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    commands = parser.add_subparsers()
    users_cli.add_commands(commands)
    usage_cli.add_commands(commands)
    for given in pages.console_commands(page.read_text(encoding="utf-8")):
        _, arguments = _split(given)
        if arguments[:1] not in (["user"], ["usage"]) or "--help" in arguments:
            continue
        if len(arguments) == 1 or arguments[1] == "…":
            continue
        try:
            parser.parse_args(arguments)
        except (SystemExit, argparse.ArgumentError) as error:
            pytest.fail(f"./console.sh {' '.join(arguments)}: {error}")


def test_the_user_commands_are_all_described() -> None:
    commands = argparse.ArgumentParser().add_subparsers()
    users_cli.add_commands(commands)
    verbs = re.findall(
        r"^    ([a-z-]+)(?: |$)", commands.choices["user"].format_help(), re.MULTILINE
    )
    shown = {args[1] for args in _users_page_commands() if len(args) > 1}
    assert verbs
    assert set(verbs) <= shown


def _users_page_commands() -> list[list[str]]:
    commands = pages.console_commands(pages.page("docs/users.md"))
    return [arguments for arguments in commands if arguments[:1] == ["user"]]
