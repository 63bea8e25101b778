"""What has been read, what is silence, and what is standing still."""

from sensorpipeline_workers.stream.progress import GAP, Progress


def progress() -> Progress:
    return Progress(stall=60.0)


def ask(subject: Progress, *, at: int, end: int, position: int = 0, first: int = 0) -> None:
    subject.answered({0: (first, end)}, {0: position}, at=at, now=at / 1000)


def test_nothing_is_known_before_what_waited_in_kafka_has_been_read() -> None:
    subject = progress()
    ask(subject, at=1_000, end=100, position=40)
    subject.read(0, 99, 0.0, now=2.0)
    ask(subject, at=3_000, end=120)
    assert subject.known() == {}
    subject.read(0, 100, 0.0, now=4.0)
    ask(subject, at=5_000, end=120)
    # All that was there when the first question was asked has been read; the rest has not.
    assert subject.known() == {0: (1_000, 1_000)}
    subject.read(0, 120, 0.0, now=6.0)
    ask(subject, at=7_000, end=120)
    assert subject.known() == {0: (1_000, 7_000)}


def test_what_others_have_committed_and_what_retention_has_deleted_is_not_waited_for() -> None:
    subject = progress()
    ask(subject, at=1_000, end=100, position=100)
    assert subject.known() == {0: (1_000, 1_000)}
    subject = progress()
    ask(subject, at=1_000, end=100, position=40, first=100)
    assert subject.known() == {0: (1_000, 1_000)}


def test_after_a_time_of_which_nothing_is_known_silence_is_counted_anew() -> None:
    subject = progress()
    for at in (1_000, 3_000, 5_000):
        ask(subject, at=at, end=0)
    assert subject.known() == {0: (1_000, 5_000)}
    subject.unanswered()
    ask(subject, at=5_000 + GAP, end=0)
    assert subject.known() == {0: (1_000, 5_000 + GAP)}
    ask(subject, at=5_001 + 2 * GAP, end=0)
    assert subject.known() == {0: (5_001 + 2 * GAP, 5_001 + 2 * GAP)}
    subject.drop({0})
    assert subject.known() == {}


def test_a_partition_with_unread_records_and_no_progress_stalls_though_others_move() -> None:
    subject = progress()
    for second in range(1, 62):
        subject.answered({0: (0, 10), 1: (0, 1000)}, {}, at=second * 1000, now=float(second))
        subject.read(1, second, 0.0, now=float(second))
    assert subject.stalled(now=61.0) == set()
    assert subject.stalled(now=61.1) == {0}
    subject.read(0, 1, 0.0, now=61.2)
    assert subject.stalled(now=61.3) == set()


def test_a_partition_that_had_nothing_to_read_does_not_stall_at_its_first_record() -> None:
    subject = progress()
    ask(subject, at=1_000, end=5, position=5)
    ask(subject, at=1_000_000, end=5, position=5)
    ask(subject, at=1_002_000, end=6)
    assert subject.behind() == {0: 0.0}
    assert subject.stalled(now=1_003.0) == set()
    assert subject.stalled(now=1_061.0) == {0}


def test_nobody_stalls_while_kafka_does_not_answer_nor_at_once_when_it_does_again() -> None:
    subject = progress()
    ask(subject, at=1_000, end=5)
    subject.unanswered()
    assert subject.stalled(now=1_000.0) == set()
    ask(subject, at=1_000_000, end=5)
    assert subject.stalled(now=1_001.0) == set()
    assert subject.stalled(now=1_061.0) == {0}
    subject.excuse(now=1_061.0)
    assert subject.stalled(now=1_062.0) == set()
