"""The trace: records of video and audio, its means, and how it is printed."""

import pytest
import torch

from vidguide.tracing.run import Record, Trace

VALUES = {  # by step, layer and stream: share limited by tau, and change of the features
    (0, 0, "video"): (0.5, 0.25),
    (0, 0, "audio"): (0.25, 0.5),
    (0, 3, "video"): (0.0, 0.75),
    (0, 3, "audio"): (0.75, 1.5),
    (1, 3, "audio"): (0.0, 0.0),
}


def trace(*streams: str) -> Trace:
    """Return a trace of the values of some streams."""
    result = Trace()
    for (step, layer, stream), (clamped, change) in VALUES.items():
        if stream in streams:
            result.add(step, layer, stream, torch.tensor([clamped, change * 4, 4.0]))
    return result


def test_records_name_the_stream() -> None:
    assert list(trace("video", "audio")) == [Record(*at, *measured) for at, measured in VALUES.items()]


def test_the_summary_has_means_of_each_stream() -> None:
    video = {"clamped": 0.25, "change": 0.5}
    audio = {"audio_clamped": pytest.approx(1 / 3), "audio_change": pytest.approx(2 / 3)}
    assert trace("video", "audio").summary() == {"steps": 2, "layers": 2, **video, **audio}
    assert trace("video").summary() == {"steps": 1, "layers": 2, **video}
    assert trace("audio").summary() == {"steps": 2, "layers": 2, **audio}
    assert trace().summary() == {}


def test_video_and_audio_of_a_layer_are_printed_on_lines_of_their_own() -> None:
    assert [line.split() for line in str(trace("video", "audio")).splitlines()] == [
        ["step", "stream", "clamped", "change", "in", "layer", "0", "3"],
        ["0", "video", "25%", "0.25", "0.75"],
        ["0", "audio", "50%", "0.50", "1.50"],
        ["1", "audio", "0%", "-", "0.00"],
    ]
    assert len({len(line) for line in str(trace("video", "audio")).splitlines()}) == 1  # columns are aligned
