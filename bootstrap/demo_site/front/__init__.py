"""The shop: what visitors see. It asks `back` for prices and stock."""
