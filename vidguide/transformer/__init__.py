"""A diffusers transformer: its family, blocks, text inputs, caches, cache contexts and parallelism.

No guidances and no attention here; interception points belong to `attention`.
"""
