"""Downloads model files and checks what is there."""
