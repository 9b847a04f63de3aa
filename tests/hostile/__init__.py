"""The hostile corpus: valid inputs broken in every way that is known, sent to a running daemon. None may be signed."""
