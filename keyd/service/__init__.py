"""keyd's API: services that know no transport, and the transports that serve them."""
