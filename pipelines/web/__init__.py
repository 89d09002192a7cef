"""The web page: its server, its tabs, and what they show. Needs the extra `vidguide[web]`."""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
