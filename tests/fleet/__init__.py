"""Three replicas on one PostgreSQL and one OpenBao, with traffic, rotations and trouble; `make fleet` runs it."""
