"""Small models, plain implementations and other helpers shared by tests."""
