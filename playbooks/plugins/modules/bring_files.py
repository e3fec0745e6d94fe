#!/usr/bin/python
"""Brings large files to a host in pieces, so that an interrupted run goes on where it was."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: bring_files
short_description: copy large files from the controller, piece by piece
description:
  - The action plugin of the same name sends a piece at a time. A file grows as C(DEST.part) and
    gets its name when its SHA-256 is right. One that is there with the right size stays.
options:
  files:
    type: list
    elements: dict
    description: each with C(src) on the controller, C(dest), C(size) in bytes and C(sha256)
  owner: {type: str, description: whose the files and new folders are}
  group: {type: str, description: their group}
"""
CHUNK = 1 << 20


def main() -> None:
    # As modes are meant here, whatever the login's is.
    os.umask(0o022)
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True},
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "root"},
            # Set by the action plugin: look, append (a piece to the first file) or finish (it).
            "step": {"type": "str", "choices": ["look", "append", "finish"], "required": True},
            "piece": {"type": "path"},
            "offset": {"type": "int"},
        },
        supports_check_mode=True,
    )
    files: list[dict[str, Any]] = module.params["files"]
    try:
        if module.params["step"] == "look":
            module.exit_json(changed=False, files=[look(file) for file in files])
        owner = pwd.getpwnam(module.params["owner"]).pw_uid
        group = grp.getgrnam(module.params["group"]).gr_gid
        if module.params["step"] == "append":
            make_folder(os.path.dirname(files[0]["dest"]), owner, group)
            append(files[0], module.params["piece"], module.params["offset"])
        elif problem := finish(files[0], owner, group):
            module.fail_json(msg=problem)
    except OSError as error:
        module.fail_json(msg=f"{files[0]['dest']}: {error.strerror}")
    module.exit_json(changed=True)


def look(file: dict[str, Any]) -> dict[str, Any]:
    """What is there: ``present``, ``part`` (bytes) and ``free`` (bytes on that disk)."""
    folder = os.path.dirname(file["dest"])
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    disk = os.statvfs(folder)
    part = size_of(f"{file['dest']}.part")
    return {
        "present": size_of(file["dest"]) == int(file["size"]),
        "part": part if part <= int(file["size"]) else 0,
        "free": disk.f_bavail * disk.f_frsize,
    }


def size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def make_folder(folder: str, owner: int, group: int) -> None:
    if os.path.isdir(folder):
        return
    make_folder(os.path.dirname(folder), owner, group)
    os.mkdir(folder, 0o755)
    os.chown(folder, owner, group)


def append(file: dict[str, Any], piece: str, offset: int) -> None:
    """Writes a piece at its place; sent twice, it does no harm."""
    handle = os.open(f"{file['dest']}.part", os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(handle, "wb") as part, open(piece, "rb") as source:
        part.truncate(offset)
        part.seek(offset)
        while chunk := source.read(CHUNK):
            part.write(chunk)
        part.flush()
        os.fsync(part.fileno())


def finish(file: dict[str, Any], owner: int, group: int) -> str:
    """Gives the file its name; returns what is wrong with it, in which case it is removed."""
    part = f"{file['dest']}.part"
    digest = hashlib.sha256()
    with open(part, "rb") as source:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != file["sha256"]:
        os.unlink(part)
        return (
            f"{file['dest']} arrived with the SHA-256 {digest.hexdigest()}; expected "
            f"{file['sha256']}, as the bundle's manifest says. It was removed. Check the bundle: "
            "unpack the archive again. Then run the same command again."
        )
    os.chmod(part, 0o644)
    os.chown(part, owner, group)
    os.replace(part, file["dest"])
    return ""


if __name__ == "__main__":
    main()
