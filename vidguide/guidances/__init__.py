"""The guidance methods: parameters, their validation, and which edits and corrections they ask for.

Tensor equations belong to `functional`, the order of events in a step to `guiding`.
"""
