import logging

from comics.server.quiet import RepetitionFilter


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
