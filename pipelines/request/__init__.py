"""Arguments of one clip: validation, guidance specs, first images, and the provenance written to the clip's JSON.

Nothing here loads or runs a model.
"""
