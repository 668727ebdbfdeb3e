"""Two sides that speak the hosted API, compared: recorded, repeatable, paid for once.

    suites        the cases that are asked for
    plan, money   what was asked for, checked; what it costs
    client        the one client of every side: uploads, keyed, replies, retrying, elsewhere,
                  downloads, exchanges, connections, base_url, accounts, errors are its rooms
    folder        a run's folder, and what stands in it when; manifest: the sums of its files
    running       tasks through a side, until they are done or nothing more may be sent
    sides         a side that is asked; on_its_way, timing, exchange_log, controls belong to it
    local_side    a local profile as one; local_server, tied, profiles belong to it
    replaying     an earlier run's side, copied
    measures      outcomes → figures of one side
    judging       who judges pictures; comparing: two sides → measures over cases
    outcomes      what became of a task; document: the result; reporting makes it
    contest       the run: all of the above in order

Knows nothing of command lines.
"""
