"""Hops: every frame is new once, every anchor is scored once, whatever the rate, the window and the stack."""

import itertools
import weakref

import numpy as np
import pytest
from tiny_clips import write_clip

from input_pipeline import sampling
from input_pipeline.moments import ASSUMED_RATE, Hop, Moment, VideoFile, cut_hops, usable_rate
from input_pipeline.schema import UserError
from input_pipeline.videos import read_video


def moments(count, rate=25.0, missing=()):
    """Moments whose frame holds its number; before those in `missing` something was lost."""
    for i in range(count):
        frame = {8: np.full((1, 1, 3), i, np.uint8)}
        yield Moment(i / rate, (i + 1) / rate, frame, follows=i not in missing)


def numbers(hop: Hop) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in hop.frames(8)]


@pytest.mark.parametrize("rate", [25.0, 30000 / 1001, 12.5, 3.0])
@pytest.mark.parametrize("lead", [0, 3, 10])
@pytest.mark.parametrize("hop_s", [0.01, 0.25, 0.5, 1.7])
def test_hops_divide_frames_and_anchors(rate, lead, hop_s):
    count = 97
    hops = list(cut_hops(moments(count, rate), hop_s, lead))
    new = [numbers(hop)[-hop.new :] for hop in hops]
    assert list(itertools.chain.from_iterable(new)) == list(range(count))
    # Anchors of a stack that reaches `lead` frames ahead, or of frames alone, as the samplers have them.
    anchors = []
    for hop in hops:
        found = sampling.num_anchors(len(hop.moments), 0, lead)
        anchors += numbers(hop)[:found]
    assert anchors == list(range(count - lead))
    lengths = [hop.new - lead * hop.begins for hop in hops[:-1]]
    assert all(abs(n - hop_s * rate) < 1 or n == 1 for n in lengths)
    assert all(len(hop.moments) == lead + hop.new for hop in hops[1:])
    assert hops[0].begins
    assert not any(hop.begins for hop in hops[1:] if lead)


def test_a_hop_of_half_a_second_by_hand():
    hops = list(cut_hops(moments(30, 10.0), 0.5, 2))
    assert [numbers(hop) for hop in hops[:3]] == [[*range(7)], [*range(5, 12)], [*range(10, 17)]]
    assert [hop.new for hop in hops] == [7, 5, 5, 5, 5, 3]
    assert [round(hop.end_s, 6) for hop in hops] == [0.7, 1.2, 1.7, 2.2, 2.7, 3.0]
    assert [round(hop.start_s, 6) for hop in hops] == [0.0, 0.7, 1.2, 1.7, 2.2, 2.7]
    assert numbers(hops[1].with_lead(1)) == [*range(6, 12)] and hops[1].with_lead(1).new == 5
    assert hops[0].with_lead(0) is hops[0]
    assert hops[1].count_frames() == 7 and hops[1].size_bytes() == 21 and hops[1].exists()


def test_what_is_too_short_for_a_stack_is_scored_only_if_there_is_nothing_else():
    assert [numbers(hop) for hop in cut_hops(moments(3), 0.5, 10)] == [[0, 1, 2]]
    assert list(cut_hops(iter([]), 0.5, 10)) == []
    # Six frames, a gap, three more: these hold no stack of four.
    assert [numbers(hop) for hop in cut_hops(moments(9, missing={6}), 0.08, 4)] == [[0, 1, 2, 3, 4, 5]]


def test_after_a_gap_a_hop_begins_anew():
    hops = list(cut_hops(moments(24, 10.0, missing={12}), 0.5, 2))
    assert [numbers(hop) for hop in hops] == [[*range(7)], [*range(5, 12)], [*range(12, 19)], [*range(17, 24)]]
    assert [hop.begins for hop in hops] == [True, False, True, False] and not any(hop.lost for hop in hops)
    # Three new frames and then two gaps: they are never of a hop.
    hops = list(cut_hops(moments(30, 10.0, missing={10, 12}), 0.5, 2))
    assert [numbers(hop) for hop in hops][:2] == [[*range(7)], [*range(12, 19)]] and hops[1].lost == 5


def test_hops_hold_two_hops_frames_at_most():
    """However long a video is: moments of the past are given up."""
    alive = weakref.WeakSet()

    def endless():
        for moment in moments(250, 25.0):
            tracked = Tracked(moment.start_s, moment.end_s, moment.frames)
            alive.add(tracked)
            yield tracked

    most = 0
    for _ in cut_hops(endless(), 0.4, 5):
        most = max(most, len(alive))
    assert 15 <= most <= 2 * 10 + 2 * 5


class Tracked(Moment):
    """A moment that can be watched."""

    __hash__, __eq__ = object.__hash__, object.__eq__


def test_a_video_files_frames_have_their_times(tmp_path):
    path = write_clip(tmp_path / "a.avi", frames=6, size=(32, 48))
    source = VideoFile(path, (32, 16))
    found = list(source.moments())
    assert (source.rate, source.total, source.dropped) == (25.0, 6, 0)
    assert [moment.start_s for moment in found] == [i / 25 for i in range(6)] and found[-1].end_s == 6 / 25
    for side in (32, 16):
        np.testing.assert_array_equal([moment.frames[side] for moment in found], read_video(path, side))
    with pytest.raises(UserError, match="no such file"):
        VideoFile(tmp_path / "none.avi", (32,))


@pytest.mark.parametrize("stated", [0.0, -1.0, float("nan"), float("inf"), 90_000.0])
def test_no_rate_is_25(stated):
    assert usable_rate(stated) == ASSUMED_RATE == 25.0


def test_rates_are_taken_as_they_are():
    assert usable_rate(30000 / 1001) == 30000 / 1001
