"""An application that logs, shells out and calls: what a correlation ID has to follow."""
