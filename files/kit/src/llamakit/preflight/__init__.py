"""Checks a machine against the plan before anything on it is changed."""
