"""The guidance methods: parameters, their validation, and their edits and corrections.

Tensor equations belong to `functional`, the order of events in a step to `guiding`.
"""
