#!/usr/bin/python
"""Runs the kit's own program (files/kit) on a host that need not have it, or installs it there."""

from __future__ import annotations

import base64
import os
import tempfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: kit
short_description: run a command of the kit on the host, or install the kit there
description:
  - The action plugin of the same name packs files/kit into one zip file, which Python runs as it
    is. One round trip carries the program, its arguments and its input.
  - With O(argv) the program runs once and leaves nothing behind, in check mode too, so that only
    commands that change nothing belong here. With O(dest) it is installed as an executable.
options:
  argv: {type: list, elements: str, description: the command and its arguments}
  stdin: {type: str, description: what the command reads}
  models:
    type: path
    description: models.yaml on the controller, which is checked there and given to the command as
      JSON on its input, together with O(routes)
  routes: {type: path, description: proxy_routes.yaml on the controller, which need not exist}
  dest: {type: path, description: where to install it}
  python: {type: str, description: the interpreter of the installed program}
"""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "program": {"type": "str", "required": True},
            "argv": {"type": "list", "elements": "str"},
            "stdin": {"type": "str"},
            "dest": {"type": "path"},
            "python": {"type": "str", "default": "/usr/bin/python3"},
        },
        required_one_of=[["argv", "dest"]],
        mutually_exclusive=[["argv", "dest"]],
        supports_check_mode=True,
    )
    program = base64.b64decode(module.params["program"])
    if module.params["dest"]:
        install(module, program)
    run(module, program)


def run(module: AnsibleModule, program: bytes) -> None:
    """Ends the module with the command's ``stdout``, ``stderr`` and ``rc``."""
    with tempfile.NamedTemporaryFile(dir=module.tmpdir, suffix=".pyz") as packed:
        packed.write(program)
        packed.flush()
        status, stdout, stderr = module.run_command(
            [module.params["python"], packed.name, *module.params["argv"]],
            data=module.params["stdin"],
        )
    result = {"rc": status, "stdout": stdout, "stderr": stderr, "changed": False}
    if status != 0:
        module.fail_json(msg=stderr.strip() or f"llamakit ended with status {status}", **result)
    module.exit_json(**result)


def install(module: AnsibleModule, program: bytes) -> None:
    """Ends the module after writing the program, executable for all, where it is not there yet."""
    dest = module.params["dest"]
    wanted = f"#!{module.params['python']}\n".encode() + program
    try:
        with open(dest, "rb") as installed:
            changed = installed.read() != wanted
    except FileNotFoundError:
        changed = True
    if changed and not module.check_mode:
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(dest), prefix=".llamakit-")
        with os.fdopen(handle, "wb") as file:
            file.write(wanted)
        module.atomic_move(temporary, dest)
    if os.path.exists(dest):
        changed = module.set_mode_if_different(dest, "0755", changed)
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
