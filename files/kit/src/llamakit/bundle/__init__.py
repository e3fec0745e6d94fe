"""One archive that holds all a deployment needs, for networks without internet.

Unpacked it is a checkout with a folder ``bundle/`` in it:

- ``manifest.json``: every file with its SHA-256 and what it is for
- ``python/3.11/LOCK.tar``: ``wheels/`` with those of ``requirements/LOCK.txt``, and ``pip.zip``
- ``wheelhouse/KIND/``: wheels of llama-cpp-python, by kind of machine; ``any`` has given ones
- ``source/``: llama-cpp-python's own sources, to compile for a kind that has no wheel
- ``models/``: as in the models folder
- ``collections.tar``: Ansible's collections
"""
