"""Generated from ``protos/keyd/v1``; `make proto` writes it, nobody edits it."""
