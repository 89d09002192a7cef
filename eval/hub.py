"""Whether the Hugging Face Hub answers, so that without a network nothing is retried for a minute."""

from pathlib import Path

TIMEOUT = 3.0  # seconds
_ANSWERED: set[str] = set()  # endpoints that have answered in this process


def is_reachable() -> bool:
    """Return whether the Hub answers a request within `TIMEOUT`; an answer holds for the rest of the process."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined] # exported, without `__all__`

    endpoint = constants.ENDPOINT
    if endpoint not in _ANSWERED:
        try:
            get_session().head(endpoint, timeout=TIMEOUT)
        except Exception:  # of requests or httpx, as the release of huggingface_hub has it, and of its offline mode
            return False
        _ANSWERED.add(endpoint)
    return True


def only_cached(source: str) -> bool:
    """Return whether the files of a model can come from the local cache only: the Hub has them, and does not answer.

    Args:
        source: local path, or Hugging Face repo id.
    """
    return not Path(source).expanduser().exists() and not is_reachable()
