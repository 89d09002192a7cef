"""What can be wrong with a clip or with what describes it: each kind of trouble is a class of its own."""


class ReadError(ValueError):
    """A clip cannot be read; the message names the source, what is wrong with it, and the cure."""

    def __init__(self, source: object, trouble: str) -> None:
        super().__init__(f"clip={str(source)!r}: {trouble}")


class MissingError(ReadError):
    """There is no such file or folder."""


class EmptyError(ReadError):
    """A file of no bytes, or a source without a single frame."""


class UnreadableError(ReadError):
    """Not a video or image, or one that no reader here decodes."""


class NoVideoError(ReadError):
    """A media file without a picture track, such as sound alone."""


class TruncatedError(ReadError):
    """Fewer frames than the file promises."""


class CorruptError(ReadError):
    """Damaged in the middle: the decoder stumbled or flagged a frame."""


class TooLargeError(ReadError):
    """More pixels than the memory set aside for one clip."""


class FramesError(ReadError):
    """Frames in memory of a wrong shape, type or range, or frames of several sizes."""


class ManifestError(ValueError):
    """The file that tells each clip's texts is not what it should be; the message names line and field."""


class ResultsError(ValueError):
    """A results file that is none of ours, or of another schema."""


class UndefinedError(Exception):
    """A metric has no value for this clip; the message says why. Never 0 and never 1 in its place."""
