"""Images outside the store: their documents, and the layouts and archives that hold them."""
