"""Data: pinned downloads, dataset tables, corpora and the token windows cut from them."""
