"""The server: the hosted endpoint on your own machine, and nothing accepted is ever lost.

Processes of two kinds share one folder:

    server      serving      start, drain, end; settings and keys are what it is told
                wire         what is slow, large or no HTTP ends here; heads, crowd
                app          routes/ and errors as HTTP; reading, documents, answers
                openapi      its description; links, refusals, request_schema; methods
                gate         refuses what web pages of others send; hosts reads names
                bodies       how much of all bodies is in memory; parsing reads a JSON one
                sending      large answers in pieces, as fast as they are taken
                judging      what comes in: submissions and uploads; intake writes them, where
                             disk keeps room
                service      all else that routes call; board, rates, metrics
                supervisor   a worker for each device, kept running, in places; messages is how
                             they talk
                webhooks     tells clients of ends
    worker      worker       takes predictions, ends them once; taking is what its threads share
                overtime     the longest time for a prediction; orders: how it is told to end
                controls     control images: fetched or uploaded, decoded elsewhere
                painting     the engine as its painter: the only room that imports torch
    the folder  database     SQLite: schema; rows, predictions, jobs, uploads, outbox; names
                media        the pictures; locks: who may be in it

The store is the truth: whatever is killed, a prediction in it ends completed or failed, once. Lines
between the processes only make waiting short.
"""
