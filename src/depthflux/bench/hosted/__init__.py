"""Two sides that speak the hosted API, compared: recorded, repeatable, paid for once.

    suites        the cases that are asked for
    plan          what was asked for; planning: checked; money: what it costs
    client        the one client of every side. Its rooms: uploads, downloads and elsewhere;
                  keyed and key_cover; lines, connections, surroundings, base_url; retrying,
                  refusals; replies, states; exchanges; accounts; errors
    folder        a run's folder, and what stands in it when; run_files: what its files are;
                  plan_file, suite_copy: two of them; manifest: the sums of all; untouched: whether
                  they still hold
    running       tasks through a side, until they are done or nothing more may be sent
    sides         a side that is asked; control_uploads, controls, on_its_way, taken_ids, fetching,
                  timing, exchange_log, warming belong to it
    local_side    a local profile as one. Its rooms: local_server, tied, profiles,
                  remembering, afterwards
    replaying     an earlier run's side, copied
    measures      outcomes → figures of one side
    judging       who judges pictures; pairing: both sides' pairs; comparing: measures over cases
    outcomes      what became of a task; reporting: the whole document, made
    contest       the run: all of the above in order

Knows nothing of command lines.
"""
