"""The verbs of console.sh: one table, and everything that speaks of them agrees with it."""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path

import pytest

from llamakit_proxy import usage_cli, users_cli
from unit.docs import pages

_SCRIPT = pages.page("console.sh")


def _verbs() -> dict[str, str]:
    """Each verb of the table in console.sh, with its arguments."""
    table = re.search(r"^VERBS='\n(.*?)^'$", _SCRIPT, re.DOTALL | re.MULTILINE)
    assert table
    cells = (line.split("#") for line in table[1].splitlines())
    return {verb.strip(): arguments.strip() for verb, arguments, _ in cells}


def test_the_readme_shows_the_help_text() -> None:
    command = ["bash", str(pages.ROOT / "console.sh"), "help"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert text in pages.fences(pages.page("README.md"))


def test_each_verb_of_the_table_is_understood_and_no_other() -> None:
    cases = re.search(r"case \$verb in\n(.*?)\n  esac", _SCRIPT, re.DOTALL)
    assert cases
    labels = re.findall(r"^ {4}([^\s()*][^()\n]*)\)", cases[1], re.MULTILINE)
    understood = {verb.strip() for label in labels for verb in label.split("|")}
    assert understood - {"-h", "--help"} == set(_verbs())


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_commands_in_the_documents_use_verbs_that_exist(page: Path) -> None:
    verbs = _verbs()
    for arguments in pages.console_commands(page.read_text(encoding="utf-8")):
        words = [word for word in arguments if not re.fullmatch(r"-v+", word)]
        if not words:
            continue
        verb, given = words[0], words[1:]
        assert verb in verbs, f"./console.sh {' '.join(words)}: there is no verb {verb}"
        if verb not in ("user", "usage"):
            known = set(re.findall(r"--?[a-z]+", verbs[verb]))
            unknown = {word for word in given if word.startswith("-")} - known
            assert not unknown, f"./console.sh {' '.join(words)}: {verb} has no {unknown}"


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_commands_about_users_can_be_parsed(page: Path) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    commands = parser.add_subparsers()
    users_cli.add_commands(commands)
    usage_cli.add_commands(commands)
    for arguments in pages.console_commands(page.read_text(encoding="utf-8")):
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
