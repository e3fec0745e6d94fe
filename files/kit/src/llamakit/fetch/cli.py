"""The commands for the models' files: ``fetch`` and ``check-files``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from llamakit.arguments import Commands, add_model_arguments, configuration
from llamakit.fetch.download import Wanted, download
from llamakit.fetch.errors import FetchError, FetchStatus
from llamakit.fetch.hub import remote_files
from llamakit.fetch.progress import Progress, Style
from llamakit.fetch.stamps import Stamps
from llamakit.models.library import inspect, part_of
from llamakit.models.plan import Candidate, list_candidates, resolve
from llamakit.quantities import size


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the commands to the kit's command line."""
    fetch = commands.add_parser("fetch", help="download what is missing of one or all models")
    add_model_arguments(fetch)
    which = fetch.add_mutually_exclusive_group()
    which.add_argument("--model", action="append", help="id, alias or number; may be repeated")
    which.add_argument("--all", action="store_true", help="every model that models.yaml lists")
    fetch.add_argument("--progress", choices=["auto", "plain", "none"], default="auto")
    fetch.add_argument("--stamp", type=Path, help="remembers checksums for check-files")
    fetch.add_argument(
        "--token-file", type=Path, help="has the hub's token, if there is one; HF_TOKEN wins"
    )
    fetch.set_defaults(run=run_fetch)

    check = commands.add_parser("check-files", help="check model files: headers, shards, checksums")
    add_model_arguments(check)
    check.add_argument("--model", action="append", help="id, alias or number; may be repeated")
    check.add_argument("--stamp", type=Path, help="remembers checksums of unchanged files")
    check.set_defaults(run=run_check)


def run_fetch(options: argparse.Namespace) -> int:
    """Exit status 0, or that of the first model that failed; the others are fetched even so."""
    config = configuration(options)
    candidates = list_candidates(config, options.models_dir)
    chosen = _named(candidates, options.model, config.models_file)
    if not chosen:
        listed = [candidate for candidate in candidates if candidate.source is not None]
        chosen = listed if options.all else listed[:1]
    stamps = Stamps(options.stamp)
    environment = hub_environment(options.token_file)
    try:
        errors = fetch_models(chosen, stamps, options.progress, environment)
    finally:
        stamps.save()
    return errors[0].status if errors else 0


def hub_environment(token_file: Path | None) -> Mapping[str, str]:
    """Our variables, with the token of the file where none of them has one."""
    if token_file is None or os.environ.get("HF_TOKEN"):
        return os.environ
    try:
        return {**os.environ, "HF_TOKEN": token_file.read_text(encoding="utf-8")}
    except FileNotFoundError:
        return os.environ


def fetch_models(
    candidates: Iterable[Candidate],
    stamps: Stamps,
    style: Style,
    environment: Mapping[str, str] = os.environ,
) -> list[FetchError]:
    """Fetches what can be had of all of them; returns, after printing, why the others can't."""
    errors = []
    for candidate in candidates:
        try:
            fetch_model(candidate, stamps, style, environment)
        except FetchError as error:
            print(error, file=sys.stderr)
            errors.append(error)
    return errors


def fetch_model(
    candidate: Candidate,
    stamps: Stamps,
    style: Style,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Downloads the files of a model that are not there; ``environment`` has the hub's settings.

    Raises:
        FetchError: one of them can't be had or is not what it should be.
    """
    source, state = candidate.source, candidate.state
    if candidate.present:
        print(f"{candidate.id}: present", file=sys.stderr)
        return
    if source is None or state.state == "invalid":
        raise _damaged(candidate)
    if source.kind == "path":
        raise FetchError(
            FetchStatus.REFUSED,
            f"{candidate.id}: {state.detail}\n  expected: the file that path: names\n"
            "  do:       correct path: in config/models.yaml, or put the file there",
        )
    if environment.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true"):
        raise FetchError(
            FetchStatus.UNREACHABLE,
            f"{candidate.id}: {state.detail}\n  expected: its files, because HF_HUB_OFFLINE is "
            "set, as it is with a bundle\n"
            f"  do:       make a bundle that has it: ./console.sh bundle --model {candidate.id}",
        )
    remotes = remote_files(source, environment)
    for index, (remote, target) in enumerate(zip(remotes, candidate.files, strict=True)):
        if target.exists():
            continue
        print(f"{candidate.id}: fetching {remote.shown}", file=sys.stderr)
        wanted = Wanted(source.sha256[index], source.sizes[index])
        try:
            found = download(remote, target, wanted, Progress(target.name, style))
        except KeyboardInterrupt:
            part = part_of(target)
            kept = size(part.stat().st_size) if part.exists() else "nothing"
            print(
                f"\ninterrupted: {kept} kept in {part}; "
                "run the same command again and it goes on from there",
                file=sys.stderr,
            )
            raise SystemExit(130) from None
        stamps.remember(target, found)
        told = "checked" if wanted.sha256 else "no sha256: in config/models.yaml to check against"
        print(f"{candidate.id}: {target.name} is there, sha256 {found} ({told})", file=sys.stderr)
    candidate.state = inspect(candidate.files, source.sizes)
    if not candidate.present:
        raise _damaged(candidate)


def run_check(options: argparse.Namespace) -> int:
    """Exit status 0 when every file is what it should be, 4 when one is not."""
    config = configuration(options)
    candidates = list_candidates(config, options.models_dir)
    chosen = _named(candidates, options.model, config.models_file)
    chosen = chosen or [c for c in candidates if c.state.state in ("present", "invalid")]
    stamps = Stamps(options.stamp)
    errors = []
    for candidate in chosen:
        try:
            check_model(candidate, stamps)
            print(f"{candidate.id}: {len(candidate.files)} file(s) in order")
        except FetchError as error:
            errors.append(error)
    stamps.save()
    print(*errors, sep="\n", end="\n" if errors else "", file=sys.stderr)
    return max((error.status for error in errors), default=0)


def check_model(candidate: Candidate, stamps: Stamps) -> None:
    """Checks headers, sizes and, where models.yaml has them, the checksums.

    Raises:
        FetchError: what is wrong with which file.
    """
    if not candidate.present:
        raise _damaged(candidate)
    checksums = candidate.source.sha256 if candidate.source else ()
    for file, expected in zip(candidate.files, checksums, strict=False):
        if expected is not None and (found := stamps.sha256(file)) != expected:
            raise FetchError(
                FetchStatus.WRONG_CONTENT,
                f"{candidate.id}: {file} has the wrong checksum\n"
                f"  found:    {found}\n  expected: {expected} (config/models.yaml)\n"
                f"  do:       rm {file} && ./console.sh add {candidate.id}",
            )


def _damaged(candidate: Candidate) -> FetchError:
    first = candidate.files[0]
    remedy = f"rm {first} && ./console.sh add {candidate.id}"
    if candidate.state.state in ("missing", "partial"):
        remedy = f"./console.sh add {candidate.id}"
    if candidate.source is None or candidate.source.kind == "path":
        remedy = f"copy the file again to {first.parent}, or remove it from there"
    return FetchError(
        FetchStatus.WRONG_CONTENT,
        f"{candidate.id}: {candidate.state.state}\n  found:    {candidate.state.detail}\n"
        f"  expected: {len(candidate.files)} whole GGUF file(s)\n  do:       {remedy}",
    )


def _named(
    candidates: Sequence[Candidate], names: Iterable[str] | None, file: Path
) -> list[Candidate]:
    found = (resolve(candidates, name, file) for name in names or [])
    return [candidate for candidate in found if candidate is not None]
