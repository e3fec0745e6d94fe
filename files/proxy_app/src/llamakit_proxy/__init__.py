"""llamakit's auth proxy: keys, limits and fair access in front of llama_cpp.server."""

__version__ = "0.1.0"
