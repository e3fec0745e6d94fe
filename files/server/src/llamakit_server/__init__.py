"""Starts llama_cpp.server: runs inside the model server's own environment, and needs only that."""

__version__ = "0.1.0"
