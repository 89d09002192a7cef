"""Every equation of the library once, as pure functions of tensors; the specification that kernels are checked against.

No module here knows a model, a guidance or a device; anything with state belongs elsewhere.
"""
