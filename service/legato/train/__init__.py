"""Training of the models that legato ships, and of yours."""
