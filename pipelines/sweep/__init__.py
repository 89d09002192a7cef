"""Many prompts and seeds in every variant, from a YAML file into one resumable report.

Making one clip belongs to `generate`, scoring it to `vidguide.eval`.
"""
