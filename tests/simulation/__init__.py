"""A year of a thousand keys and of those that verify what they sign, on a clock that is set."""
