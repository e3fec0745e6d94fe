"""What runs inside the model server's own environment: nothing here may import the rest."""
