"""Tables of the report: definitions, published values, cells, exports and the page."""
