"""The running services: started, supervised, probed and told about."""
