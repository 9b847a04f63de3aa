"""Resources that verify with the libraries themselves. Runs in the environment `peers`, without keyd."""
