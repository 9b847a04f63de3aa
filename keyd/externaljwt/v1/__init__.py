"""Generated from ``protos/keyd/externaljwt/v1``; `make proto` writes it, nobody edits it."""
