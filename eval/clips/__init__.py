"""Read clips: video files, image folders, arrays and manifests.

Nothing here measures; a damaged file is an error, never a shorter clip.
"""
