"""Looks for what could go wrong on this machine."""
