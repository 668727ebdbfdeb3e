"""The defences: each a promise, the lines that keep it, and the tests that fail without them.

They are declared in tests/attacks/defences/NN.toml, a file for each attack. scripts/tables writes
the table of docs/security.md from them; scripts/undefended takes each away and sees its tests fail.

    declared.py   the files → objects
    trial.py      one defence taken away in a copy of the source, and what its tests say then
"""
