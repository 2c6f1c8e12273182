"""Benchmarks and the two protocols that score them: perplexity of text, accuracy on questions."""
