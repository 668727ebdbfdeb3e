"""Whether the server loses anything while whatever it stands on breaks.

Clients submit thousands of jobs; meanwhile workers and the server are killed, the disk fills up,
the clock jumps, the store is locked. Then all of it is held against what the clients were told. The
server, its store and its workers are the real ones; the painter is scripts/stand_in's. All traffic
goes to 127.0.0.1, and only processes that were started here are killed.

    plan.py      which fault comes after which job, by the seed
    wishes.py    what each job asks for, by the seed
    stage.py     the server, in a folder of its own; disk.py fills it, clock.py and clock.c turn it
    client.py    submits, repeats until answered, polls, cancels, deletes; calls.py is its HTTP
    receiver.py  takes webhooks, when it likes to
    faults.py    carries the plan out
    journal.py   what the clients were told, and when
    run.py       all of these together, until everything has ended
    evidence.py  what is there afterwards: rows, files, paints
    judge.py     what of it must not be
    recovery.py  how long it took to go on
    figures.py   the document; page.py renders it
"""
