"""Schemas of the JSON that the evaluation reads: manifest entries, result rows and scores written by VBench."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat


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
