"""The models that there are, and the plan of what is to run."""
