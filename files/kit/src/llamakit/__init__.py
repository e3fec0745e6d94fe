"""What turns config/models.yaml into running model servers, and tells how they are.

Importing the package must stay free of third-party modules: ``llamakit.server.launch`` runs inside
the model server's environment, which has only llama-cpp-python and what that needs.
"""

__version__ = "0.1.0"
