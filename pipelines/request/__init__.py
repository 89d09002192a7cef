"""One request for a clip: validation, guidance specifications, input images, and the provenance written beside it.

Nothing here loads a model or runs one.
"""
