#!/usr/bin/python
"""Chooses which release runs: an atomic switch of a link, with the way back kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: release
short_description: switch the link `current` to a release, or back to the one before
description:
  - Below O(path) are C(releases/NAME) and the links C(current) and C(previous).
  - A switch replaces the link by a rename, so that whoever follows it finds the old release or the
    new one. C(previous) is set first; a run that died between the two is made good by the next.
options:
  path: {type: path, required: true, description: the folder with the releases}
  name: {type: str, description: the release to switch to}
  back:
    type: bool
    default: false
    description: switch to C(previous), which afterwards names the release that was left
  previous:
    type: str
    description: >-
      what C(previous) is to name after the switch, where that is not the release left; empty
      means none
  keep:
    type: int
    default: 3
    description: how many releases stay, the newest, beside those that a link names
"""


class Releases:
    """The releases below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def linked(self, link: str) -> str | None:
        """The release that a link names; None when there is none or it is gone."""
        try:
            name = os.path.basename(os.readlink(self.root / link))
        except OSError:
            return None
        return name if (self.root / "releases" / name).is_dir() else None

    def link(self, link: str, name: str) -> None:
        temporary = self.root / f".{link}.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path("releases", name))
        temporary.rename(self.root / link)

    def switch(self, name: str, previous: str | None) -> None:
        before = self.linked("current") if previous is None else previous
        if before:
            self.link("previous", before)
        else:
            (self.root / "previous").unlink(missing_ok=True)
        self.link("current", name)

    def prune(self, keep: int) -> None:
        """Removes all but the newest ``keep`` and those that are linked."""
        folders = sorted((self.root / "releases").iterdir(), key=lambda path: path.stat().st_mtime)
        linked = {self.linked("current"), self.linked("previous")}
        for folder in folders[: -keep or None]:
            if folder.name not in linked:
                shutil.rmtree(folder)

    def environments(self) -> list[str]:
        """The environments that releases run in."""
        found = {str(path.resolve()) for path in (self.root / "releases").glob("*/venv")}
        return sorted(found)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "name": {"type": "str"},
            "back": {"type": "bool", "default": False},
            "previous": {"type": "str"},
            "keep": {"type": "int", "default": 3},
        },
        required_one_of=[["name", "back"]],
        supports_check_mode=True,
    )
    releases = Releases(Path(module.params["path"]))
    current, previous = releases.linked("current"), releases.linked("previous")
    wanted: str | None = previous if module.params["back"] else module.params["name"]
    if wanted is None:
        module.fail_json(
            msg=f"there is no release before {current or 'the first'} in {releases.root}/releases; "
            "expected one to go back to. Deploy the checkout that you want instead: site.yml"
        )
        return
    changed = wanted != current
    if changed and not module.check_mode:
        releases.switch(wanted, module.params["previous"])
        releases.prune(module.params["keep"])
    module.exit_json(
        changed=changed,
        before=current or "",
        previous=previous or "",
        name=wanted,
        environments=releases.environments() if (releases.root / "releases").is_dir() else [],
    )


if __name__ == "__main__":
    main()
