"""What is judged: the file itself, and each error against the training model's own."""
