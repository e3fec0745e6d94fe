#!/usr/bin/python
"""Writes any number of files and folders in one go, where a loop would start Python for each."""

from __future__ import annotations

import fnmatch
import os
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: write_files
short_description: bring folders and files to their wanted content, owner and mode in one execution
description:
  - An M(ansible.builtin.template) or M(ansible.builtin.file) loop runs one Python per item, about
    0.4 seconds each. This does the whole list in one, with check mode and diff.
  - The action plugin of the same name renders O(templates) on the controller first.
options:
  owner: {type: str, description: owner of everything that names none}
  group: {type: str, description: group of everything that names none}
  directories:
    type: list
    elements: dict
    default: []
    description: folders to make, with C(path) and C(mode)
  templates:
    type: list
    elements: dict
    default: []
    description:
      - templates to render, with C(src), C(dest) and C(mode); with C(each), a list of dictionaries,
        one file per entry, which the template sees as C(item) and C(dest) may quote as C({name})
  trees:
    type: list
    elements: dict
    default: []
    description: text files and folders of the controller, C(src) (a list), to put into C(dest)
  contents:
    type: list
    elements: dict
    default: []
    description:
      - files with their C(content), C(dest) and C(mode); C(force=false) keeps what is there,
        C(secret=true) keeps it out of the diff; C(validate), a command as a list with C(%s) for the
        file, must succeed before the new content replaces the old
  links:
    type: list
    elements: dict
    default: []
    description: symbolic links, C(path) with the text C(to), replaced by a rename
  prune:
    type: list
    elements: dict
    default: []
    description: files to remove, those of C(path) that match C(pattern) and are not in C(keep)
"""


class Writer:
    """Applies the wanted state and notes what it changed."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.written: list[str] = []
        self.removed: list[str] = []
        self.diffs: list[dict[str, str]] = []

    def _attributes(self, wanted: dict[str, Any], path: str) -> bool:
        arguments = self.module.load_file_common_arguments(
            {
                "path": path,
                "mode": wanted["mode"],
                "owner": wanted.get("owner", self.module.params["owner"]),
                "group": wanted.get("group", self.module.params["group"]),
            }
        )
        return bool(self.module.set_fs_attributes_if_different(arguments, False))

    def directory(self, wanted: dict[str, Any]) -> None:
        path, changed = wanted["path"], False
        if not os.path.isdir(path):
            changed = True
            if not self.module.check_mode:
                os.makedirs(path, mode=0o700)
        if os.path.isdir(path):
            changed |= self._attributes(wanted, path)
        if changed:
            self.written.append(path)

    def file(self, wanted: dict[str, Any]) -> None:
        path, content, changed = wanted["dest"], wanted["content"], False
        before = self._read(path)
        if before is None or (before != content and wanted.get("force", True)):
            changed = True
            if not wanted.get("secret"):
                self.diffs.append(
                    {"before_header": path, "after_header": path, "before": before or "",
                     "after": content}
                )
            if not self.module.check_mode:
                self._write(path, content, wanted.get("validate"))
        if os.path.exists(path):
            changed |= self._attributes(wanted, path)
        if changed:
            self.written.append(path)

    def link(self, wanted: dict[str, Any]) -> None:
        path, target = wanted["path"], wanted["to"]
        if os.path.islink(path) and os.readlink(path) == target:
            return
        self.written.append(path)
        if not self.module.check_mode:
            # A folder of our own, because a link can't be made over a file that was reserved.
            folder = tempfile.mkdtemp(dir=os.path.dirname(path), prefix=".write_files-")
            temporary = os.path.join(folder, "link")
            os.symlink(target, temporary)
            os.rename(temporary, path)
            os.rmdir(folder)

    @staticmethod
    def _read(path: str) -> str | None:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def _write(self, path: str, content: str, validate: list[str] | None) -> None:
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".write_files-")
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if validate:
            self._validate(path, [word.replace("%s", temporary) for word in validate], temporary)
        self.module.atomic_move(temporary, path)

    def _validate(self, path: str, command: list[str], temporary: str) -> None:
        status, stdout, stderr = self.module.run_command(command)
        if status != 0:
            os.unlink(temporary)
            said = (stderr or stdout).strip() or f"the check ended with status {status}"
            self.module.fail_json(
                msg=f"{path} was left as it is, because its new content is refused: {said}"
            )

    def prune(self, wanted: dict[str, Any]) -> None:
        if not os.path.isdir(wanted["path"]):
            return
        for name in sorted(os.listdir(wanted["path"])):
            if fnmatch.fnmatch(name, wanted["pattern"]) and name not in wanted["keep"]:
                path = os.path.join(wanted["path"], name)
                if not self.module.check_mode:
                    os.unlink(path)
                self.removed.append(path)


def main() -> None:
    lists = {"type": "list", "elements": "dict", "default": []}
    module = AnsibleModule(
        argument_spec={
            "owner": {"type": "str"},
            "group": {"type": "str"},
            "directories": lists,
            "templates": lists,
            "contents": {**lists, "no_log": False},
            "links": lists,
            "prune": lists,
        },
        supports_check_mode=True,
    )
    writer = Writer(module)
    try:
        for wanted in module.params["directories"]:
            writer.directory(wanted)
        for wanted in module.params["contents"]:
            writer.file(wanted)
        for wanted in module.params["links"]:
            writer.link(wanted)
        for wanted in module.params["prune"]:
            writer.prune(wanted)
    except OSError as error:
        module.fail_json(
            msg=f"{error.filename or 'a file'} could not be written: {error.strerror}. "
            f"Expected a place that can be written to, with room left on the disk (df -h)."
        )
    module.exit_json(
        changed=bool(writer.written or writer.removed),
        written=writer.written,
        removed=writer.removed,
        diff=writer.diffs if module._diff else [],
    )


if __name__ == "__main__":
    main()
