"""Sessions: keys in memory, and the tokens of issuer keys that bind them."""
