"""The built-in smoke model, which stands in where no model file could be fetched."""
