import logging

from comics.server.quiet import MOST_KINDS, RepetitionFilter


def test_a_flood_is_counted_and_other_messages_pass():
    now = [0.0]
    logger = logging.Logger("flood")
    written = []
    handler = logging.Handler()
    handler.emit = lambda record: written.append(record.getMessage())
    handler.addFilter(RepetitionFilter(most=3, period_s=10, clock=lambda: now[0]))
    logger.addHandler(handler)
    for number in range(1000):
        logger.warning("invalid request %d", number)
    logger.error("another matter of 100%")
    assert written == [*(f"invalid request {n}" for n in range(3)), "another matter of 100%"]
    now[0] = 11.0
    logger.warning("invalid request %d", 7)
    assert written[-1] == "invalid request 7 (and 997 more like it before)"
    now[0] = 22.0
    logger.warning("invalid request %d", 8)
    assert written[-1] == "invalid request 8"
    for _ in range(5):
        logger.error("disk 100%% full: %s", "50%")
    now[0] = 33.0
    logger.error("disk 100%% full: %s", "50%")
    assert written[-1] == "disk 100% full: 50% (and 2 more like it before)"


def test_messages_of_too_many_kinds_are_not_remembered_for_ever():
    filtering = RepetitionFilter(most=1, clock=lambda: 0.0)
    for number in range(10_000):
        record = logging.LogRecord("a", logging.INFO, "", 0, f"unique {number}", (), None)
        assert filtering.filter(record)
    assert len(filtering._kinds) <= MOST_KINDS
