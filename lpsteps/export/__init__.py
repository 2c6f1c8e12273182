"""A pruned model as a Hugging Face checkpoint that other programs load without this project."""
