"""What turns config/models.yaml into running model servers, and tells how they are.

Importing the package must stay free of third-party modules: on a host, where there is nothing but
Python's own library, ``plan``, ``preflight``, ``status`` and the backups run all the same.
"""

__version__ = "0.1.0"
