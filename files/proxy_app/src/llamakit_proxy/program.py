"""What people type before a command, so that the commands that messages name can be pasted."""

import os

PROGRAM = os.environ.get("LLAMAKIT_PROGRAM") or "llamakit-users"
