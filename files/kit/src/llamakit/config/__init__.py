"""The files that users edit, read and checked: models.yaml and proxy_routes.yaml."""
