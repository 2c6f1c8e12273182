"""Language models: loading them, finding their decoder layers, cutting and patching them."""
