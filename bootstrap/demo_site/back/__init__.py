"""The warehouse: prices and stock, as JSON over HTTP."""
