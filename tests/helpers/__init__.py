"""Small models, plain implementations and other parts that tests share."""
