"""An agent's hours with sessions: `make sessions`, and its short form."""
