"""Schemas of the JSON that the evaluation reads: manifest entries, result rows, votes, and scores of VBench."""

import unicodedata
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator
from typing_extensions import Self

MAX_RATER = 60  # characters


def check_encodable(text: str) -> str:
    """Refuse a NUL character, which no path can contain, and surrogates, which UTF-8 cannot encode."""
    if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("must not contain NUL or surrogate characters")
    return text


Text = Annotated[str, AfterValidator(check_encodable)]


class ManifestEntry(BaseModel):
    """Texts, seed and arm of one clip."""

    model_config = ConfigDict(strict=True, extra="forbid")

    clip: Text | None = None
    arm: Text | None = None
    prompt_id: Text | None = None
    seed: int | None = None
    prompt: Text | None = None
    eval_prompt: Text | None = None
    negative_prompt: Text | None = None


class ResultDetails(BaseModel):
    """Details of a value; there may be more than the remarks."""

    model_config = ConfigDict(strict=True)

    remarks: list[str] = []


class ResultRow(BaseModel):
    """The fields of a row of results.jsonl that are read again; a row has more. Those with a default may be absent."""

    model_config = ConfigDict(strict=True)

    schema_version: Literal[1] = Field(alias="schema")
    clip: str
    arm: str
    prompt_id: str
    seed: int | None
    metric: str
    value: FiniteFloat | None
    status: Literal["ok", "undefined", "failed"]
    config_hash: str
    file_sha256: str | None
    version: str | None = None
    weights: str | None = None
    unit: str | None = None
    reason: str | None = None
    clip_sha256: str | None = None
    eval_prompt: str | None = None
    negative_prompt: str | None = None
    frames: int | None = Field(default=None, gt=0)
    width: int | None = Field(default=None, gt=0)
    height: int | None = Field(default=None, gt=0)
    fps: FiniteFloat | None = Field(default=None, gt=0)
    marks: list[str] | None = None
    per_frame: list[FiniteFloat | None] | None = None
    details: ResultDetails | None = None
    versions: dict[str, str] = {}


def number_of(score: Any) -> Any:
    """Return 1.0 or 0.0 for a boolean, and anything else as it is."""
    return float(score) if isinstance(score, bool) else score


class VBenchScore(BaseModel):
    """Score of a clip in an `*_eval_results.json` of VBench or VBench-2.0. A yes-or-no dimension may have a boolean."""

    model_config = ConfigDict(strict=True)

    video_path: str
    video_results: Annotated[FiniteFloat, BeforeValidator(number_of)]


def check_rater(name: str) -> str:
    """Refuse a name of a rater that is empty, too long, or has control characters such as line breaks."""
    if not 1 <= len(name) <= MAX_RATER or name != name.strip() or not name.isprintable():
        raise ValueError(f"must be 1 to {MAX_RATER} printable characters without spaces at its ends")
    return unicodedata.normalize("NFC", check_encodable(name))


Rater = Annotated[str, AfterValidator(check_rater)]
Choice = Literal["left", "right", "tie", "skip"]
Milliseconds = Annotated[int, Field(ge=0)]
FileHash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Vote(BaseModel):
    """A line of the file of votes: the choice of a rater between two clips of the same prompt and seed.

    Attributes:
        variants: of the two clips, sorted by name. left: the one that was shown on the left.
        choice: which clip the rater preferred. milliseconds: from the start of the clips to the choice.
        sha256: of the two files, in the order of the variants. time: of the vote, UTC.
    """

    model_config = ConfigDict(strict=True, extra="forbid", populate_by_name=True)

    schema_version: Literal[1] = Field(alias="schema")
    rater: Rater
    prompt: Text
    seed: int | None
    variants: Annotated[list[Text], Field(min_length=2, max_length=2)]
    left: Text
    choice: Choice
    milliseconds: Milliseconds
    sha256: Annotated[list[FileHash], Field(min_length=2, max_length=2)]
    time: str

    @model_validator(mode="after")
    def check_variants(self) -> Self:
        """Refuse variants that are equal or not sorted, and a left one that is none of them."""
        if not self.variants[0] < self.variants[1]:
            raise ValueError(f"variants={self.variants!r}: must be two different names, sorted")
        if self.left not in self.variants:
            raise ValueError(f"left={self.left!r}: must be one of {', '.join(self.variants)}")
        return self


class Answer(BaseModel):
    """A choice as the page sends it: token of the pair that was shown, choice, and milliseconds until it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    token: str
    choice: Choice
    milliseconds: Milliseconds
