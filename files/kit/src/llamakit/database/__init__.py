"""Backups of the database of users, keys and requests, through PostgreSQL's own programs.

Needs the standard library alone: on a host it runs from the kit's one file.
"""
