"""A comparison for a person to read: tables for a terminal, and one HTML file.

    words       figures, intervals and verdicts in words, the same everywhere
    table       the tables
    page        the HTML file; its templates, style and script lie in `templates/`
    method      its prose: the result in sentences, how it was measured, what it was run with
    rows        its charts' rows; charts draws their strips as SVG
    cases       its cases; pictures makes their pictures small

Knows nothing of measuring: all of it is made from a `bench.document.Document` and the pictures
that it names.
"""
