"""How quick the server is around an engine that does nothing, and whether its memory stays flat.

The server, its store and its worker are the real ones; the engine is scripts/stand_in's, which
takes 50 ms. All traffic goes to 127.0.0.1; every part ends by itself, and ends only processes that
it started.

    overhead.py   what the server adds to a request
    load.py       polls at a fixed rate while clients submit
    memory.py     half an hour of everything; mixed.py is what is asked meanwhile
    stage.py      a server for one part
    wire.py       HTTP as lean as can be, since the generator shares the cores with the server
    calls.py      the server's calls over it; tally.py keeps their times and failures
    receiver.py   takes webhooks
    processes.py  memory, files, threads and CPU time of processes
    figures.py    quantiles, slopes, intervals
    goals.py      what is promised and what was expected before measuring
    page.py       docs/benchmarks/server.md
"""
