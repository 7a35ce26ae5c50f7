"""Who is read and written when, as tables of turns."""

import pytest

from lm.generation.scheduler import Job, Scheduler


class Play:
    """Runs a scheduler on jobs whose prompts are read in chunks of at most 8 tokens."""

    def __init__(self, num_slots, max_waiting=9, tokens_a_turn=8):
        self.scheduler = Scheduler(
            num_slots=num_slots, max_waiting=max_waiting, tokens_a_turn=tokens_a_turn
        )
        self.jobs, self.left = {}, {}

    def add(self, name, num_tokens, num_texts=1, max_new_tokens=2):
        self.jobs[name] = Job(name, num_texts, max_new_tokens)
        self.left[name] = num_tokens
        self.scheduler.add(self.jobs[name])

    def turn(self, stops=()):
        """What happens in a turn: 'a5' reads 5 tokens of a, 'a0@1' begins text 0 of a in slot 1,
        'a0+' writes a token of it, 'a0.' its last."""
        events, scheduler = [], self.scheduler
        scheduler.begin_turn()
        events += self._place(stops)
        while job := scheduler.reading():
            num = min(8, self.left[job.request])
            if not scheduler.may_read(num):
                break
            events.append(f"{job.request}{num}")
            self.left[job.request] -= num
            if not self.left[job.request]:
                scheduler.was_read()
            events += self._place(stops)
        for place in scheduler.active:
            events.append(self._write(place, stops))
        return " ".join(events)

    def _place(self, stops):
        events = []
        for place in self.scheduler.place()[1]:
            events.append(f"{place.job.request}{place.text}@{place.slot}")
            events.append(self._write(place, stops))
        return events

    def _write(self, place, stops):
        name = f"{place.job.request}{place.text}"
        is_end = name in stops
        reason = self.scheduler.wrote(place.slot, is_end=is_end, is_token=not is_end)
        return name + {None: "+", "length": ".", "stop": "!"}[reason]


def test_first_come_is_first_served_and_a_slot_is_free_for_the_next_turn():
    play = Play(num_slots=2)
    for name in "abc":
        play.add(name, 3)

    turns = [play.turn() for _ in range(4)]

    assert turns == ["a3 a0@0 a0+ b3 b0@1 b0+ a0. b0.", "c3 c0@0 c0+ c0.", "", ""]
    assert play.scheduler.is_idle


def test_long_prompts_are_read_between_steps():
    play = Play(num_slots=3)
    play.add("a", 2, max_new_tokens=9)
    play.add("b", 20)
    play.add("c", 3)

    turns = [play.turn() for _ in range(4)]

    assert turns == ["a2 a0@0 a0+ a0+", "b8 a0+", "b8 a0+", "b4 b0@1 b0+ c3 c0@2 c0+ a0+ b0. c0."]


def test_short_prompts_share_a_turn():
    play = Play(num_slots=9, tokens_a_turn=8)
    for name in "abcd":
        play.add(name, 3, max_new_tokens=9)

    assert play.turn() == "a3 a0@0 a0+ b3 b0@1 b0+ a0+ b0+"
    assert play.turn() == "c3 c0@2 c0+ d3 d0@3 d0+ a0+ b0+ c0+ d0+"


def test_texts_of_one_prompt_begin_as_slots_become_free():
    play = Play(num_slots=2)
    play.add("a", 1, num_texts=3, max_new_tokens=3)
    play.add("b", 1)

    turns = [play.turn() for _ in range(4)]

    assert turns == [
        "a1 a0@0 a0+ a1@1 a1+ a0+ a1+",
        "a0. a1.",
        "a2@0 a2+ b1 b0@1 b0+ a2+ b0.",
        "a2.",
    ]


def test_a_stop_ends_a_text_and_what_only_ends_it_is_no_token():
    play = Play(num_slots=2)
    play.add("a", 1, num_texts=2, max_new_tokens=2)
    play.add("b", 1, max_new_tokens=1)

    assert play.turn(stops=["a1"]) == "a1 a0@0 a0+ a1@1 a1! b1 b0@1 b0. a0."
    assert play.jobs["a"].written == {0: 2, 1: 0}
    assert play.scheduler.is_idle


def test_a_prompt_that_is_only_scored_takes_no_slot_for_long():
    play = Play(num_slots=1)
    play.add("a", 12, num_texts=2, max_new_tokens=0)
    play.add("b", 1)

    assert [play.turn(), play.turn()] == ["a8", "a4 b1 b0@0 b0+ b0."]


@pytest.mark.parametrize("when", [0, 1, 2, 3])
def test_a_job_can_be_cancelled_wherever_it_is(when):
    play = Play(num_slots=2)
    play.add("x", 1, max_new_tokens=1 if when else 9)
    play.add("y", 1, max_new_tokens=99)
    play.add("a", 12, num_texts=2, max_new_tokens=99)
    play.add("b", 1)
    for _ in range(when):  # a waits, is half read, is read and has one of its texts, and goes on.
        play.turn()
    if when == 0:
        play.turn()
    slots = {place.slot for place in play.scheduler.active}

    stood = play.scheduler.cancel(play.jobs["a"])

    assert [place.text for place in stood] == ([0] if when > 2 else [])
    assert play.scheduler.cancel(play.jobs["a"]) == []
    left = {place.job.request for place in play.scheduler.active}
    assert "a" not in left
    assert len(slots) - len(play.scheduler.active) == len(stood)
    assert play.jobs["a"] not in play.scheduler.jobs()
    assert play.jobs["b"] in play.scheduler.jobs()
    if when:  # The other takes its place.
        assert "b1 b0@1 b0+" in play.turn()


def test_no_more_wait_than_may():
    play = Play(num_slots=1, max_waiting=2)
    play.add("a", 1, max_new_tokens=9)
    assert not play.scheduler.is_full
    play.turn()
    play.add("b", 1)
    play.add("c", 1)

    assert (play.scheduler.is_full, play.scheduler.num_waiting) == (True, 2)
    with pytest.raises(AssertionError):
        play.add("d", 1)
    play.scheduler.cancel(play.jobs["b"])
    assert not play.scheduler.is_full
