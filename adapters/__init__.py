"""One file per model family: a declaration of its attention modules and text inputs.

Code that applies to several families belongs in the core package.
"""
