"""Reading of clips: video files, image folders, arrays and manifests.

Nothing here measures. A damaged file raises an error; it never becomes a shorter clip.
"""
