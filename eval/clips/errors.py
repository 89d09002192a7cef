"""Errors about clips, manifests, results and metrics: one class per kind of problem."""


class ReadError(ValueError):
    """A clip that cannot be read; the message names the source, the problem and the cure."""

    def __init__(self, source: object, problem: str) -> None:
        super().__init__(f"clip={str(source)!r}: {problem}")


class MissingError(ReadError):
    """A file or folder that does not exist."""


class EmptyError(ReadError):
    """A file of zero bytes, or a source without any frame."""


class UnreadableError(ReadError):
    """A file that is neither video nor image, or that no reader here can decode."""


class NoVideoError(ReadError):
    """A media file without a video stream, such as audio only."""


class TruncatedError(ReadError):
    """A file with fewer frames than it declares."""


class CorruptError(ReadError):
    """A file with damaged data: the decoder failed or flagged a frame."""


class TooLargeError(ReadError):
    """A clip whose frames exceed the memory limit."""


class FramesError(ReadError):
    """Frames in memory of an unsupported shape, dtype or range, or frames of different sizes."""


class AudioError(ReadError):
    """Audio that a Clip cannot hold: without samples, or with more than two channels."""


class ManifestError(ValueError):
    """A manifest, or the JSON file of a clip, with invalid content; the message names line and field."""


class ResultsError(ValueError):
    """A results file that vidguide did not write, or one of another schema version."""


class UndefinedError(Exception):
    """A metric that has no value for a clip; the message gives the reason. It is never replaced by 0 or 1."""
