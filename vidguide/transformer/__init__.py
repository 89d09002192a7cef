"""A diffusers transformer seen from outside: its family, blocks, text inputs, caches, cache contexts and parallelism.

Knows no guidance and changes no attention; interception points belong to `attention`.
"""
