"""One file per model family: where its attention is and how its text gets there."""
