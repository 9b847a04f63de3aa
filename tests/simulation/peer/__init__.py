"""The verifiers of the simulated year. Runs in the environment `peers`, without keyd, on what keyd served and signed."""
