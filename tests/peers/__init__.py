"""What runs in the environment of a library, without keyd."""
